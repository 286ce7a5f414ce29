"""What the demo page gives its Space: page, card and requirements at the root, the packages it imports beside them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from huggingface_hub import ModelCard, SpaceCard

from hub_medsyn.cards.render import keep_what_people_wrote
from hub_medsyn.cards.space import space_card
from hub_medsyn.policy.verdict import Verdict, judge, judge_model
from hub_medsyn.publishing.repository import Repository
from hub_medsyn.publishing.staging_model import CARD, PROCESSING, TELLING, WEIGHTS, allowed_files
from medsyn.errors import UserError
from medsyn.schema import MANIFEST, parse_manifest, strictest

PAGE = ("app.py", CARD, "requirements.txt")
PACKAGES = ("medsyn", "hub_medsyn", "dataset_builder", "model_cards")


def own_files(root: Path) -> set[str]:
    """
    The files of this package by their paths below `root`: what git tracks in a checkout, what its record lists where
    it is installed. Anything else in the folders may be somebody's data.

    Raises:
        UserError: If neither tells.
    """
    if (root / ".git").exists():
        listing = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", str(root), "ls-files", "-z"], capture_output=True, check=False
        )
        if listing.returncode == 0:
            return set(listing.stdout.decode().split("\0")) - {""}
    try:
        distribution = metadata.distribution("hub-medsyn")
        if Path(str(distribution.locate_file(""))).resolve() == root and distribution.files:
            return {path.as_posix() for path in distribution.files}
    except metadata.PackageNotFoundError:
        pass
    raise UserError(
        f"which files in {root} belong to the page is not known: it is neither a git checkout (with git) nor an "
        "installed package; publish from one of the two"
    )


def visible_files(package: Path) -> dict[str, Path]:
    """All files of a package by their paths beside it, but what is hidden or compiled."""
    found = {}
    for path in sorted(package.rglob("*")):
        parts = path.relative_to(package).parts
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in parts):
            found["/".join((package.name, *parts))] = path
    return found


def included_files(folder: Path) -> set[Path]:
    """
    The files of a dataset or a model that somebody adds to the page, by lists of what may leave.

    Raises:
        UserError: If it is neither a dataset with its manifest nor a model with its card; names the folder.
    """
    if (folder / MANIFEST).is_file():
        patterns = (MANIFEST, CARD, "assets/*.png", "data/*/*.parquet")
        return {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    if (folder / "config.json").is_file() and (folder / CARD).is_file():
        return set(allowed_files(folder, (*WEIGHTS, *PROCESSING, *TELLING, CARD)).values())
    raise UserError(f"{folder} is neither a dataset with a {MANIFEST} nor a model with config.json and {CARD}")


def policy_as_it_lies(entry: dict) -> str:
    """
    The text policy of a config that goes along unchanged. What was built as `ids-only` still holds its text and, in
    `manifest.json`, its base seed: only `medsyn publish dataset` leaves them out.
    """
    settings = entry["settings"]
    return "credentialed" if settings["text_policy"] == "ids-only" and "seed" in settings else settings["text_policy"]


class SpaceStaging:
    """
    The folder of the page on its way to a Space. There is no release of this package to install there, so that the
    packages lie beside the page.

    Args:
        folder (`str` or `Path`): The page: `app.py`, `README.md` and `requirements.txt`; the packages are beside it.
        message (`str`, *optional*): Of the commit.
        include (`Iterable[str | Path]`, *optional*): Datasets and models within the folder that are not the package's
            own; they are judged as those are.

    Raises:
        FileNotFoundError: If one of them is missing.
        UserError: If a file lies there that is neither the package's own nor in `include`; it is named.
    """

    repo_type = "space"

    def __init__(self, folder: str | Path, message: str | None = None, include: Iterable[str | Path] = ()):
        self.folder = Path(folder).resolve()
        for name in PAGE:
            if not (self.folder / name).is_file():
                raise FileNotFoundError(f"{folder} is no Space: it holds no {name}; name the folder spaces_app")
        packages = [self.folder, *(self.folder.parent / name for name in PACKAGES)]
        if missing := [str(package) for package in packages if not (package / "__init__.py").is_file()]:
            raise FileNotFoundError(f"{missing[0]} is not there, which the page needs beside it")
        self.sources = {name: self.folder / name for name in PAGE if name != CARD}
        own = own_files(self.folder.parent)
        included = {path.resolve() for added in include for path in included_files(Path(added))}
        strangers = []
        for package in packages:
            for name, path in visible_files(package).items():
                if name in own or path.resolve() in included:
                    self.sources[name] = path
                else:
                    strangers.append(path)
        if strangers:
            raise UserError(
                f"{strangers[0]} and {len(strangers) - 1} more files are not the page's own; move them elsewhere, or "
                "name the folder of a dataset or a model with --include, so that it is judged"
            )
        for name in PAGE[1:]:  # app.py stays in the package too, where `medsyn space` finds it
            self.sources.pop(f"{self.folder.name}/{name}", None)
        self.sources |= {name: path for name in ("LICENSE", "NOTICE") if (path := self.folder.parent / name).is_file()}
        self.card = SpaceCard((self.folder / CARD).read_text(encoding="utf-8"))
        self.replaces = tuple(f"{package.name}/*" for package in packages)
        self.message = message or "Publish the page"

    def judge(self, repository: Repository, private: bool, gated: bool) -> Verdict:
        """Judges the datasets and models that lie in the page's folder. A Space cannot be gated, so that none of them
        may hold credentialed text."""
        for path, source in self.sources.items():
            verdict = None
            if path.endswith(f"/{MANIFEST}"):
                manifest = parse_manifest(source.read_text(encoding="utf-8"), path)
                verdict = judge(strictest(map(policy_as_it_lies, manifest["configs"].values())), private, False)
            elif path.endswith(f"/{CARD}"):
                card = ModelCard.load(source, ignore_metadata_errors=True)
                origin = card.data.to_dict().get("medsyn", {})
                from_reports = bool(origin.get("vocabulary_from_reports"))
                verdict = judge_model(origin.get("text_policy"), from_reports, private, False)
            if verdict is not None and not verdict.allowed:
                reason = (
                    f"{path.rpartition('/')[0]} holds text that only credentialed readers may see, and a Space cannot "
                    "be gated; take it out of the page's folder, or make it anew of public reports"
                )
                return Verdict(False, verdict.policy, (reason,))
        return judge("public", private, False)

    def files(self, repository: Repository) -> dict[str, Path | bytes]:
        """
        Raises:
            CardConflict: If people wrote different things into the folder's card and the Space's.
        """
        card = space_card(self.folder, repository.repo_id)
        places = {f"the {CARD} of {self.folder}": str(self.card)}
        on_hub = repository.read(CARD)
        if on_hub is not None:
            places[f"the {CARD} of {repository.repo_id}"] = on_hub
        card = keep_what_people_wrote(card, *places.values(), places=tuple(places))
        return {**self.sources, CARD: str(card).encode()}
