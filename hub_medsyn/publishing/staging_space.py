"""What the demo page gives its Space: page, card and requirements at the root, the packages it imports beside them."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard, SpaceCard

from hub_medsyn.cards.render import keep_what_people_wrote
from hub_medsyn.cards.space import space_card
from hub_medsyn.policy.verdict import Verdict, judge, judge_model
from hub_medsyn.publishing.repository import Repository
from hub_medsyn.publishing.staging_model import CARD
from medsyn.schema import MANIFEST, parse_manifest, strictest

PAGE = ("app.py", CARD, "requirements.txt")
PACKAGES = ("medsyn", "hub_medsyn", "dataset_builder", "model_cards")
KINDS = frozenset(
    ".py .json .jsonl .npz .jinja .css .js .svg .txt .md .yaml .csv .parquet .safetensors .png .jpg .jpeg .model "
    ".diffdrr".split()
)


def package_files(package: Path) -> dict[str, Path]:
    """Sources and data of a package by their paths beside it: nothing hidden, compiled, or of an unknown kind."""
    found = {}
    for path in sorted(package.rglob("*")):
        parts = path.relative_to(package).parts
        hidden = any(part.startswith((".", "__pycache__")) or part == "tests" for part in parts)
        if path.is_file() and not hidden and path.suffix.lower() in KINDS:
            found["/".join((package.name, *parts))] = path
    return found


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

    Raises:
        FileNotFoundError: If one of them is missing.
    """

    repo_type = "space"

    def __init__(self, folder: str | Path, message: str | None = None):
        self.folder = Path(folder).resolve()
        for name in PAGE:
            if not (self.folder / name).is_file():
                raise FileNotFoundError(f"{folder} is no Space: it holds no {name}; name the folder spaces_app")
        packages = [self.folder, *(self.folder.parent / name for name in PACKAGES)]
        if missing := [str(package) for package in packages if not (package / "__init__.py").is_file()]:
            raise FileNotFoundError(f"{missing[0]} is not there, which the page needs beside it")
        self.sources = {name: self.folder / name for name in PAGE if name != CARD}
        for package in packages:
            self.sources |= package_files(package)
        for name in PAGE[1:]:  # app.py stays in the package too, where `medsyn space` finds it
            del self.sources[f"{self.folder.name}/{name}"]
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
