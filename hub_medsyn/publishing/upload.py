"""One commit from what is staged: look at the repository, judge, compare, send, judge again, commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils.sha import git_hash
from tqdm import tqdm

from hub_medsyn.policy.verdict import PolicyError, Verdict
from hub_medsyn.publishing.hub_errors import PublishError, as_publish_errors, explain, is_passing, status_of
from hub_medsyn.publishing.repository import Repository, check_repo_id, check_token, read_repository, restrict_access
from hub_medsyn.publishing.retrying import LONGEST_WAIT, asked_to_wait

ATTEMPTS = 4
STALE_PARENT = 412


class Staging(Protocol):
    """
    What a folder gives a repository.

    Attributes:
        repo_type (`str`): `dataset`, `model` or `space`.
        message (`str`): Of the commit.
        replaces (`tuple[str, ...]`): Patterns of files of the repository that go unless they are staged again.
    """

    repo_type: str
    message: str
    replaces: tuple[str, ...]

    def judge(self, before: Repository, private: bool, gated: bool) -> Verdict:
        """Whether the text policy allows it to stand in such a repository."""

    def files(self, before: Repository) -> dict[str, Path | bytes]:
        """Paths in the repository and what they will hold, `README.md` among them. Raises where something of it must
        not leave this machine."""


@dataclass(frozen=True)
class Published:
    """
    What was done, or would be.

    Attributes:
        repo_id (`str`), repo_type (`str`), url (`str`): The repository.
        commit (`str`, *optional*): The commit made; `None` where nothing was to do, and in a dry run.
        pull_request (`str`, *optional*): Its address, where one was asked for.
        files (`dict[str, int]`): All that was staged, in bytes.
        sent (`tuple[str, ...]`): What of it the repository did not hold.
        removed (`tuple[str, ...]`): What the repository held in place of it.
        private (`bool`), gated (`bool`): Who sees the repository, read back; in a dry run, who would.
        verdict (`~hub_medsyn.policy.verdict.Verdict`): Of the text policy.
        card (`str`): The README.md.
        unseen (`str`, *optional*): Why the repository could not be looked at, in a dry run.
    """

    repo_id: str
    repo_type: str
    url: str
    commit: str | None
    pull_request: str | None
    files: dict[str, int]
    sent: tuple[str, ...]
    removed: tuple[str, ...]
    private: bool
    gated: bool
    verdict: Verdict
    card: str
    unseen: str | None = None


@dataclass(frozen=True)
class Changes:
    """What a repository lacks of the staged files, and what of its own goes."""

    files: Mapping[str, Path | bytes]
    additions: list[CommitOperationAdd]
    deletions: list[CommitOperationDelete]

    def published(self, repository: Repository, verdict: Verdict, endpoint: str, **more) -> Published:
        sizes = {
            path: len(source) if isinstance(source, bytes) else source.stat().st_size
            for path, source in self.files.items()
        }
        card = self.files["README.md"]
        prefix = "" if repository.repo_type == "model" else f"{repository.repo_type}s/"
        values = {
            "commit": None,
            "pull_request": None,
            "private": repository.private,
            "gated": repository.gated,
        }
        return Published(
            repo_id=repository.repo_id,
            repo_type=repository.repo_type,
            url=f"{endpoint}/{prefix}{repository.repo_id}",
            files=sizes,
            sent=tuple(operation.path_in_repo for operation in self.additions),
            removed=tuple(operation.path_in_repo for operation in self.deletions),
            verdict=verdict,
            card=card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8"),
            **{**values, **more},
        )


def is_there(addition: CommitOperationAdd, before: RepoFile | None) -> bool:
    """Whether the repository holds this very file; it is only hashed where the sizes agree.

    `create_commit` skips unchanged files too, but only while it commits: a dry run lists what would be sent.
    """
    if before is None or before.size != addition.upload_info.size:
        return False
    if before.lfs is not None:
        return before.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as file:
        return before.blob_id == git_hash(file.read())


def compare(before: Repository, files: Mapping[str, Path | bytes], replaces: tuple[str, ...]) -> Changes:
    """What it takes to make the repository hold `files`, and nothing else under the patterns `replaces`."""
    additions = []
    for path, source in tqdm(files.items(), desc="comparing", unit="file", delay=2):
        addition = CommitOperationAdd(path, source)
        if not is_there(addition, before.files.get(path)):
            additions.append(addition)
    stale = [
        path
        for path in before.files
        if path not in files and any(fnmatchcase(path, operation) for operation in replaces)
    ]
    return Changes(files, additions, [CommitOperationDelete(path, is_folder=False) for path in stale])


def refuse(verdict: Verdict) -> None:
    if not verdict.allowed:
        raise PolicyError(" ".join(verdict.reasons))


def dry_run_upload(staging: Staging, repo_id: str, *, private: bool = False, gated: bool = False) -> Published:
    """
    What [`upload`] would do. Nothing is created or sent; the repository is read if it can be.

    Raises:
        PolicyError: If something of the files must not leave this machine. That the policy forbids such a repository
            is told in `verdict` instead.
        ValueError: If `repo_id` cannot be one.
    """
    check_repo_id(repo_id)
    api, before, unseen = HfApi(), Repository(repo_id, staging.repo_type), None
    try:
        before = read_repository(api, repo_id, staging.repo_type)
    except (HTTPError, OSError) as error:
        unseen = explain(error, repo_id, staging.repo_type)
        if unseen is None:
            raise
    private, gated = private or before.private, gated or before.gated
    verdict = staging.judge(before, private, gated)
    changes = compare(before, staging.files(before), staging.replaces)
    return changes.published(before, verdict, api.endpoint, private=private, gated=gated, unseen=unseen)


def upload(
    staging: Staging,
    repo_id: str,
    *,
    private: bool = False,
    gated: bool = False,
    create_pr: bool = False,
    say: Callable[[str], None] = print,
) -> Published:
    """
    Makes a repository hold what is staged, in one commit, or in none where it holds it already.

    The text policy is judged on what the repository would be before anything is created or sent, on what the Hub says
    it is before anything is sent, and again right before the commit. The commit names the state that it was made for:
    where somebody changed the repository meanwhile, it is read again, so that nothing of theirs is lost.

    Args:
        staging (`Staging`): What to publish.
        repo_id (`str`): `<org>/<name>`.
        private (`bool`, *optional*, defaults to `False`): Make the repository private if it is not.
        gated (`bool`, *optional*, defaults to `False`): Let a person approve who may read it. Neither is ever undone.
        create_pr (`bool`, *optional*, defaults to `False`): Open a pull request instead.
        say (`Callable[[str], None]`, *optional*): Is told when it begins anew.

    Returns:
        `Published`

    Raises:
        PolicyError: If the text policy forbids it.
        PublishError: If the Hub cannot be reached, refuses, or is changed by others again and again.
        ValueError: If `repo_id` cannot be one.
    """
    check_repo_id(repo_id)
    api, repo_type = HfApi(), staging.repo_type
    with as_publish_errors(repo_id, repo_type):
        check_token(api, repo_id, create_pr)
        for attempt in range(ATTEMPTS):
            before = read_repository(api, repo_id, repo_type)
            if create_pr and before.sha is None:
                raise PublishError(
                    f"there is no {repo_type} {repo_id} to open a pull request in, or this token may not see it; "
                    "leave --create-pr out to create it"
                )
            refuse(staging.judge(before, private or before.private, gated or before.gated))
            changes = compare(before, staging.files(before), staging.replaces)
            now = restrict_access(api, before, private, gated)
            refuse(verdict := staging.judge(now, now.private, now.gated))
            if not changes.additions and not changes.deletions:
                return changes.published(now, verdict, api.endpoint)
            api.preupload_lfs_files(  # the repository's .gitignore does not apply: it would drop files silently
                repo_id, changes.additions, repo_type=repo_type, create_pr=create_pr, gitignore_content=""
            )
            now = read_repository(api, repo_id, repo_type)
            refuse(verdict := staging.judge(now, now.private, now.gated))
            if now.contents() != before.contents():
                if before.sha is not None:  # the Hub puts a card into a new Space by itself
                    say(f"{repo_id} was changed meanwhile; it is read again")
                continue
            try:
                commit = api.create_commit(
                    repo_id,
                    [*changes.additions, *changes.deletions],
                    commit_message=staging.message,
                    repo_type=repo_type,
                    create_pr=create_pr,
                    parent_commit=now.sha,
                )
            except (HTTPError, OSError) as error:
                if status_of(error) == STALE_PARENT:
                    say(f"{repo_id} was changed meanwhile; it is read again")
                    continue
                wait = asked_to_wait(error)
                wait = 2.0**attempt if wait is None else wait
                if is_passing(error) and not create_pr and attempt + 1 < ATTEMPTS and wait <= LONGEST_WAIT:
                    say(f"{explain(error, repo_id, repo_type)}; trying again in {wait:.0f} s")
                    time.sleep(wait)  # then look again: the commit may have arrived all the same
                    continue
                raise
            return changes.published(
                now, verdict, api.endpoint, commit=commit.oid, pull_request=commit.pr_url if create_pr else None
            )
    raise PublishError(f"{repo_id} was changed by others {ATTEMPTS} times meanwhile; run the same command later")
