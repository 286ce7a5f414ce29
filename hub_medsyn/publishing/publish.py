"""`medsyn publish`: a dataset, model, encoders, generator or Space to the Hub, in one commit a repository."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from hub_medsyn.publishing.hub_errors import as_publish_errors
from hub_medsyn.publishing.staging_dataset import DatasetStaging
from hub_medsyn.publishing.staging_generator import stage_generator
from hub_medsyn.publishing.staging_model import encoder_folders, stage_encoder, stage_model
from hub_medsyn.publishing.staging_space import SpaceStaging
from hub_medsyn.publishing.upload import Published, Staging, dry_run_upload, upload
from medsyn.errors import add_debug_option, command

KINDS = {
    "dataset": "what `medsyn build` wrote",
    "model": "a checkpoint, as `medsyn pretrain` or `medsyn convert` wrote it",
    "encoders": "what `medsyn export-encoders` wrote, or one of its two folders",
    "generator": "a diffusers pipeline, or LoRA weights for one",
    "space": "the demo page, with the packages it needs",
}


def _publish(staging: Staging, repo_id: str, private: bool, gated: bool, create_pr: bool, dry_run: bool) -> Published:
    if dry_run:
        with as_publish_errors(repo_id, staging.repo_type):
            return dry_run_upload(staging, repo_id, private=private, gated=gated)
    return upload(staging, repo_id, private=private, gated=gated, create_pr=create_pr)


def publish_dataset(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    gated: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
    text_policy: str | None = None,
    message: str | None = None,
) -> Published:
    """
    Publishes a dataset folder in one commit, or in none where the repository holds it already.

    Configs that the repository has and the folder lacks stay; shards that a published config no longer has go. The
    manifest's text policy decides who may see the repository: see docs/policy.md.

    Args:
        folder (`str` or `Path`): What `medsyn build` wrote.
        repo_id (`str`): `<org>/<name>`; created if there is none.
        private (`bool`, *optional*, defaults to `False`): Make the repository private if it is not.
        gated (`bool`, *optional*, defaults to `False`): Let a person approve who may read it. Neither is ever undone.
        create_pr (`bool`, *optional*, defaults to `False`): Open a pull request instead.
        dry_run (`bool`, *optional*, defaults to `False`): Only tell what would be done.
        text_policy (`str`, *optional*): `ids-only` leaves out all that tells of the reports, in every config.
        message (`str`, *optional*): Of the commit.

    Returns:
        [`~hub_medsyn.publishing.upload.Published`]

    Raises:
        PolicyError: The text policy forbids it, or what is to be published holds what must not leave.
        PublishError: The Hub cannot be reached or refuses; the message says what to do.
        FileNotFoundError: It is no dataset folder, or lacks a shard.
        ValueError: The dataset is not fit to be published, or `repo_id` is none.
    """
    with DatasetStaging(folder, text_policy, message) as staging:
        return _publish(staging, repo_id, private, gated, create_pr, dry_run)


def publish_model(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    gated: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
    message: str | None = None,
) -> Published:
    """
    Publishes a checkpoint with the code that loads it; options, result and errors as of [`publish_dataset`].

    Args:
        folder (`str` or `Path`): What `medsyn pretrain` or `medsyn convert` wrote. It is not changed.
        repo_id (`str`): `<org>/<name>`.
    """
    return _publish(stage_model(folder, message), repo_id, private, gated, create_pr, dry_run)


def publish_encoders(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    gated: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
    message: str | None = None,
) -> list[Published]:
    """
    Publishes exported encoders, each to a repository of its own; options and errors as of [`publish_dataset`].

    timm reads nothing but the root of a repository.

    Args:
        folder (`str` or `Path`): With `image/` and `text/`, which go to `<repo_id>-image` and `<repo_id>-text`, or one
            of the two, which goes to `repo_id`.
        repo_id (`str`): `<org>/<name>`.

    Returns:
        `list[Published]`: One an encoder.
    """
    stagings = {
        repo_id + ending: stage_encoder(encoder, message) for ending, encoder in encoder_folders(folder).items()
    }
    return [_publish(staging, name, private, gated, create_pr, dry_run) for name, staging in stagings.items()]


def publish_generator(
    folder: str | Path,
    repo_id: str,
    *,
    base_model: str | None = None,
    private: bool = False,
    gated: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
    message: str | None = None,
) -> Published:
    """
    Publishes a generator of images; options, result and errors as of [`publish_dataset`].

    Args:
        folder (`str` or `Path`): A diffusers pipeline, or LoRA weights: a `.safetensors` file or a folder with one.
        repo_id (`str`): `<org>/<name>`.
        base_model (`str`, *optional*): Of LoRA weights: the pipeline that they were trained for, as an id on the Hub.
    """
    staging = stage_generator(folder, repo_id, base_model, message)
    return _publish(staging, repo_id, private, gated, create_pr, dry_run)


def publish_space(
    folder: str | Path | None,
    repo_id: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
    message: str | None = None,
    include: Iterable[str | Path] = (),
) -> Published:
    """
    Publishes the page as a Gradio Space; options, result and errors as of [`publish_dataset`].

    Args:
        folder (`str` or `Path`, *optional*): The folder `spaces_app`, by default the one that belongs to this package.
        repo_id (`str`): `<org>/<name>`.
        include (`Iterable[str | Path]`, *optional*): Folders of datasets and models in it that are not the package's.
    """
    folder = folder or Path(__file__).resolve().parents[2] / "spaces_app"
    return _publish(SpaceStaging(folder, message, include), repo_id, private, False, create_pr, dry_run)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medsyn publish",
        description="Put a folder on the Hub in one commit. The same command again sends nothing, or resumes where a "
        "broken connection stopped it. Whether credentialed text may go there is judged first. "
        "`medsyn publish dataset --help` tells the options of one kind.",
        epilog="example: medsyn publish dataset medsyn-cxr --repo your-name/medsyn-cxr",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND", title="what to publish")
    for kind, what in KINDS.items():
        kind_parser = kinds.add_parser(kind, help=what, description=f"Put on the Hub: {what}.")
        optional = {"nargs": "?", "help": "default: the page of this package"} if kind == "space" else {"help": what}
        kind_parser.add_argument("folder", **optional)
        names = "; two encoders go to NAME-image and NAME-text" if kind == "encoders" else ""
        kind_parser.add_argument("--repo", required=True, metavar="ORG/NAME", help=f"created if there is none{names}")
        kind_parser.add_argument(
            "--private", action="store_true", help="make the repository private; this is never undone"
        )
        if kind != "space":
            kind_parser.add_argument(
                "--gated", action="store_true", help="let a person approve who may read it; this is never undone"
            )
        if kind == "dataset":
            kind_parser.add_argument(
                "--text-policy", choices=["ids-only"], help="leave out all that tells of the reports: docs/policy.md"
            )
        if kind == "space":
            kind_parser.add_argument(
                "--include",
                action="append",
                default=[],
                metavar="FOLDER",
                help="folder of a dataset or a model in "
                "the page that is not the package's own; judged like the others, repeatable",
            )
        if kind == "generator":
            kind_parser.add_argument(
                "--base-model", metavar="ORG/NAME", help="of LoRA weights: the pipeline that they were trained for"
            )
        kind_parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
        kind_parser.add_argument("--message", help="of the commit")
        kind_parser.add_argument(
            "--dry-run", action="store_true", help="print files, sizes, card and verdict; create and send nothing"
        )
        add_debug_option(kind_parser)
    return parser


def size_words(number: int) -> str:
    for unit, of in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= of:
            return f"{number / of:.1f} {unit}"
    return f"{number} bytes"


def access_words(published: Published) -> str:
    return f"{'private' if published.private else 'public'}, {'gated' if published.gated else 'not gated'}"


def dry_run_report(published: Published) -> str:
    """What a dry run tells: files, the card, the verdict, and what it could not see."""
    width = max(map(len, published.files))
    lines = [f"{published.repo_type} {published.repo_id} ({access_words(published)}) would hold", ""]
    lines += [
        f"  {path:<{width}}  {size_words(size):>9}  {'new or changed' if path in published.sent else 'as it is there'}"
        for path, size in published.files.items()
    ]
    lines += [f"  {path:<{width}}  {'':>9}  would go" for path in published.removed]
    total = sum(published.files[path] for path in published.sent)
    lines += ["", f"{len(published.files)} files; {len(published.sent)} to send, {size_words(total)}"]
    lines += ["", "--- README.md", published.card.rstrip(), "--- end of README.md", ""]
    if published.unseen:
        lines.append(f"The repository could not be looked at, so that all counts as new: {published.unseen}.")
    allowed = "allowed" if published.verdict.allowed else "refused"
    lines.append(f"Text policy {published.verdict.policy}: {allowed}. {' '.join(published.verdict.reasons)}")
    lines.append("Dry run: nothing was created or sent.")
    return "\n".join(lines)


def outcome(published: Published) -> str:
    """What was done, in a few lines."""
    name = f"{published.url} ({access_words(published)})"
    if published.commit is None:
        return f"{name}\nnothing to do: it holds all {len(published.files)} files already"
    total = sum(published.files[path] for path in published.sent)
    done = f"{len(published.sent)} files sent ({size_words(total)})"
    if published.removed:
        done += f", {len(published.removed)} removed"
    where = f"pull request {published.pull_request}" if published.pull_request else f"commit {published.commit}"
    return f"{name}\n{done}: {where}\n{' '.join(published.verdict.reasons)}"


@command("medsyn publish", interrupted="run the same command again, what arrived is not sent again")
def main(argv: list[str] | None = None) -> int:
    """Runs `medsyn publish` and returns its exit code: 0 done, 1 failed with a sentence on stderr.

    Bad usage exits with 2, as `argparse` does.
    """
    args = vars(build_parser().parse_args(argv))
    kind, folder, repo_id, _ = (args.pop(name) for name in ("kind", "folder", "repo", "debug"))
    publish = {
        "dataset": publish_dataset,
        "model": publish_model,
        "encoders": publish_encoders,
        "generator": publish_generator,
        "space": publish_space,
    }[kind]
    published = publish(folder, repo_id, **args)
    repositories = published if isinstance(published, list) else [published]
    for repository in repositories:
        print(dry_run_report(repository) if args["dry_run"] else outcome(repository))
    return 0 if all(repository.verdict.allowed for repository in repositories) else 1


if __name__ == "__main__":
    sys.exit(main())
