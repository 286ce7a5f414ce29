"""Text policies: what may be published where.

| policy | the reports | may be published |
|---|---|---|
| `public` | anyone may read them | anywhere, with their text |
| `ids-only` | only some may read them | anywhere, without their text: `IDS_ONLY_COLUMNS` and counts |
| `credentialed` | only some may read them | to a private and gated repository, with their text |

`hub_medsyn.policy.ids_only` is the view without text. No message here holds text of a report. docs/policy.md says what
this cannot protect.
"""

from __future__ import annotations

from dataclasses import dataclass

from medsyn.errors import UserError
from medsyn.schema import known_policy


class PolicyError(UserError):
    """What was to be published may not be; the message says why and what to do, and holds no text of a report."""


@dataclass(frozen=True)
class Verdict:
    """
    Whether something may be published.

    Args:
        allowed (`bool`): Whether it may.
        policy (`str`): The text policy that was judged.
        reasons (`tuple[str, ...]`): Sentences for a person: why, and what can be done.
    """

    allowed: bool
    policy: str
    reasons: tuple[str, ...]


def judge(policy: str, private: bool, gated: bool) -> Verdict:
    """
    Whether a dataset under a text policy may go to a repository.

    Args:
        policy (`str`): One of `TEXT_POLICIES`; `ids-only` means that what is uploaded has no text.
        private (`bool`): Whether the repository is private.
        gated (`bool`): Whether a person approves each request for access. The Hub's `"auto"` lets everybody in who
            asks, and counts as not gated.

    Returns:
        [`Verdict`]
    """
    if known_policy(policy) == "public":
        return Verdict(
            True, policy, ("The text is public: whoever built the dataset declared that anyone may read it.",)
        )
    if policy == "ids-only":
        return Verdict(True, policy, ("No text is published: images, identifiers and keyed hashes of the reports.",))
    if _closed(private, gated):
        reason = (
            "The text is credentialed and the repository private and gated: let in only who holds the credentials."
        )
        return Verdict(True, policy, (reason,))
    return Verdict(
        False,
        policy,
        (
            f"The text is credentialed and the repository is {_who(private, gated)}. There are three ways out:",
            "--private --gated, for a team in which everyone holds the credentials;",
            "--text-policy ids-only, which publishes the images of a build with --seed secret without any text; "
            "`medsyn attach-reports` joins it back for those who hold it;",
            "keep the dataset local, or, if anyone may read these reports, build it with --text-policy public.",
        ),
    )


def judge_model(policy: str | None, vocabulary_from_reports: bool, private: bool, gated: bool) -> Verdict:
    """
    Whether a checkpoint may go to a repository.

    Weights are not text. A vocabulary that was counted on reports (`--text_encoder scratch`) is drawn from them, down
    to misspelt names, and is treated as their text.

    Args:
        policy (`str`, *optional*): The text policy of the dataset it was trained on; `None` where nothing tells.
        vocabulary_from_reports (`bool`): Whether its tokenizer was made from those reports.
        private, gated (`bool`): As in [`judge`].

    Returns:
        [`Verdict`]: With what is left for a person to settle, where something is.
    """
    name = "unknown" if policy is None else known_policy(policy)
    if name == "public":
        return Verdict(True, name, ("The reports it was trained on are public.",))
    reports = "unknown reports (no manifest tells)" if policy is None else "reports that only some may read"
    if vocabulary_from_reports and not _closed(private, gated):
        return Verdict(
            False,
            name,
            (
                f"Its vocabulary was made from {reports}, and the repository is {_who(private, gated)}. There are "
                "three ways out:",
                "--private --gated, for a team in which everyone holds the credentials;",
                "train again with a published text encoder instead of --text_encoder scratch;",
                "keep the checkpoint local, or, if anyone may read these reports, build their dataset with "
                "--text-policy public and train again.",
            ),
        )
    return Verdict(
        True,
        name,
        (
            f"It was trained on {reports}. Weights hold no text, but models can remember: heed the terms of the "
            "reports' source, which may ask for the same access as the data.",
        ),
    )


def _closed(private: bool, gated: bool) -> bool:
    return private is True and gated in (True, "manual")


def _who(private: bool, gated: bool) -> str:
    if not private:
        return "public" if not gated else "public, so that its card and file names can be read, though gated"
    return "private, but " + ("lets in whoever asks" if gated else "not gated")
