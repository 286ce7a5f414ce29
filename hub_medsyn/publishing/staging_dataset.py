"""What a dataset folder gives its repository: shards, with or without their text, samples, manifest and card."""

from __future__ import annotations

import glob
import io
import json
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hub_medsyn.cards.dataset import dataset_card, grid_path, sample_grid
from hub_medsyn.cards.render import keep_what_people_wrote
from hub_medsyn.policy.ids_only import ids_only_entry, ids_only_problems
from hub_medsyn.policy.report_texts import ReportTexts
from hub_medsyn.policy.verdict import PolicyError, Verdict, judge
from hub_medsyn.publishing.repository import Repository
from hub_medsyn.publishing.shards import find_shards, parquet_notes, report_texts, table_bytes, write_ids_only
from medsyn.errors import UserError
from medsyn.files import scratch_folder
from medsyn.schema import FORMAT, MANIFEST, parse_manifest, strictest

CARD = "README.md"
SECRET_SEED = "secret_seed"  # a setting that stays in the folder: whoever knows it can draw the images of likely texts
# What may not take the place of a config that was published with its text: the repository's history would keep it.
WITHDRAWS = {"credentialed": ("public", "ids-only"), "public": ("ids-only",), "ids-only": ()}


class DatasetStaging:
    """
    A dataset folder on its way to the Hub. Use it in a `with`: copies without text lie beside the folder meanwhile.

    The shards are sent from where they are; those of a config without its text are written anew, a row group at a
    time. The repository's other configs stay: its manifest and card tell of all of them, in the order in which they
    were first published, so that the first stays the `default` one.

    Args:
        folder (`str` or `Path`): What `medsyn build` wrote.
        text_policy (`str`, *optional*): `ids-only` leaves out the text of every config. By default the manifest
            decides for each.
        message (`str`, *optional*): Of the commit.

    Raises:
        FileNotFoundError: If it is no dataset folder, or lacks a shard.
        UserError: If shards and manifest do not agree, the Hub's viewer would not read the shards, or a config cannot
            be published without its text.
    """

    repo_type = "dataset"

    def __init__(self, folder: str | Path, text_policy: str | None = None, message: str | None = None):
        self.folder = Path(folder).resolve()
        path = self.folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is no dataset: it holds no {MANIFEST}; `medsyn build` writes one")
        if text_policy not in (None, "ids-only"):
            raise UserError(f"text policy {text_policy!r}: only ids-only can be asked for; the manifest says the rest")
        self.manifest = parse_manifest(path.read_text(encoding="utf-8"), str(path))
        if not self.manifest["configs"]:
            raise UserError(f"{path} lists no config; the build did not come to its end: run it again")
        self.policies, self.shards, problems = {}, {}, []
        for name, entry in self.manifest["configs"].items():
            self.policies[name] = text_policy or entry["settings"]["text_policy"]
            self.shards[name] = find_shards(self.folder, name, entry)
            if self.policies[name] == "ids-only":
                if "seed" not in entry["settings"]:
                    raise UserError(f"{folder} was published without its text before; name the folder it was built in")
                problems += ids_only_problems(name, entry)
        if problems:
            raise PolicyError("; ".join(problems))
        rows = sum(
            split["num_examples"] for entry in self.manifest["configs"].values() for split in entry["splits"].values()
        )
        self.message = message or f"Publish {', '.join(self.shards)}: {rows:,} rows"
        self.replaces = tuple(f"data/{glob.escape(name)}/*" for name in self.shards)
        self._scratch = ExitStack()

    def __enter__(self) -> DatasetStaging:
        return self

    def __exit__(self, *error) -> None:
        self._scratch.close()

    def manifest_of(self, repository: Repository) -> dict:
        """The manifest of a repository, without configs where it has none, or of which the shards are gone."""
        text = repository.read(MANIFEST)
        manifest = {"configs": {}} if text is None else parse_manifest(text, f"{MANIFEST} of {repository.repo_id}")
        kept = {
            name: entry
            for name, entry in manifest["configs"].items()
            if any(path.startswith(f"data/{name}/") for path in repository.files)
        }
        return {**manifest, "configs": kept}

    def judge(self, repository: Repository, private: bool, gated: bool) -> Verdict:
        """Judges the strictest policy of what is published and of what stands there already."""
        entries = self.manifest_of(repository)["configs"].values()
        policies = [*self.policies.values(), *(entry["settings"]["text_policy"] for entry in entries)]
        return judge(strictest(policies), private, gated)

    def files(self, repository: Repository) -> dict[str, Path | bytes]:
        """
        Raises:
            PolicyError: If an image, an id, a name, a card, the manifest or Parquet metadata holds what must not
                leave, or the repository's history would keep text that was published before.
            CardConflict: If people wrote different things into both cards.
        """
        others = self.manifest_of(repository)
        for name, policy in self.policies.items():
            before = others["configs"].get(name)
            if before and policy in WITHDRAWS[before["settings"]["text_policy"]]:
                raise PolicyError(
                    f"the config {name} of {repository.repo_id} was published with its text as "
                    f"{before['settings']['text_policy']}, which the repository's history keeps; publish it as "
                    f"{policy} in a new repository"
                )
        script = f"{repository.repo_id.rpartition('/')[2]}.py"
        if script in repository.files:
            raise UserError(
                f"{repository.repo_id} holds {script}, which makes load_dataset refuse the repository; delete it there"
            )
        shards = self._published_shards
        entries = {name: self._entry(name) for name in shards}
        configs = {**others["configs"], **entries}
        policy = strictest(entry["settings"]["text_policy"] for entry in configs.values())
        manifest = {"format": FORMAT, "text_policy": policy, "configs": configs}
        files: dict[str, Path | bytes] = {
            f"data/{name}/{path.name}": path for name, paths in shards.items() for path in paths
        }
        files |= {grid_path(name): self._grid(name) for name in shards}
        files[MANIFEST] = json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n"
        files[CARD] = self._card(repository, manifest).encode()
        self._refuse_texts(files)
        return files

    @cached_property
    def _published_shards(self) -> dict[str, list[Path]]:
        published = {}
        for name, paths in self.shards.items():
            if self.policies[name] == "ids-only":
                scratch = self._scratch.enter_context(scratch_folder(self.folder)) / name
                scratch.mkdir()
                paths = write_ids_only(paths, scratch)
            published[name] = paths
        return published

    def _entry(self, name: str) -> dict:
        """What the repository's manifest says of a config."""
        entry = self.manifest["configs"][name]
        if self.policies[name] != "ids-only":
            settings = {key: value for key, value in entry["settings"].items() if key != SECRET_SEED}
            return {**entry, "settings": settings}
        entry = ids_only_entry(entry)
        for split, counts in entry["splits"].items():
            paths = [path for path in self._published_shards[name] if path.name.startswith(f"{split}-")]
            counts |= {"num_bytes": sum(map(table_bytes, paths)), "file_bytes": sum(p.stat().st_size for p in paths)}
        return entry

    def _grid(self, name: str) -> bytes:
        """The samples of a config: those in the folder, or images without words where no text is to leave."""
        path = self.folder / grid_path(name)
        if self.policies[name] != "ids-only" and path.is_file():
            return path.read_bytes()
        picture = io.BytesIO()
        plain = self.policies[name] == "ids-only"
        sample_grid(self.folder / "data" / name, plain=plain).save(picture, format="png", optimize=True)
        return picture.getvalue()

    def _card(self, repository: Repository, manifest: dict) -> str:
        card = dataset_card(
            manifest,
            repository.repo_id,
            {name: self._schema(name, repository) for name in manifest["configs"]},
            {name: grid_path(name) for name in manifest["configs"]},
        )
        local = self.folder / CARD
        places = {
            str(local): local.read_text(encoding="utf-8") if local.is_file() else None,
            f"the {CARD} of {repository.repo_id}": repository.read(CARD),
        }
        cards = {place: text for place, text in places.items() if text is not None}
        return str(keep_what_people_wrote(card, *cards.values(), places=tuple(cards)))

    def _schema(self, name: str, repository: Repository) -> pa.Schema:
        if name in self.shards:
            return pq.read_schema(self._published_shards[name][0])
        return repository.parquet_schema(
            next(path for path in sorted(repository.files) if path.startswith(f"data/{name}/"))
        )

    @cached_property
    def _texts(self) -> ReportTexts:
        return ReportTexts(
            text
            for name, policy in self.policies.items()
            if policy != "public"
            for text in report_texts(self.shards[name])
        )

    def _refuse_texts(self, files: Mapping[str, Path | bytes]) -> None:
        """
        Raises:
            PolicyError: If a report's sentence stands anywhere but in the rows; names the place, not the sentence.
        """
        if all(policy == "public" for policy in self.policies.values()):
            return
        readable = {path: content.decode() for path, content in files.items() if path in (MANIFEST, CARD)}
        notes = {
            f"the Parquet metadata of {path}": parquet_notes(files[path])
            for path in files
            if path.endswith(".parquet")
        }
        for place, text in {
            **readable,
            **notes,
            "a file's name": "\n".join(files),
            "the message": self.message,
        }.items():
            if lines := self._texts.find_in(text):
                raise PolicyError(
                    f"line {lines[0]} of {place} holds words of a report; take them out, nothing was sent: reports "
                    "stand in rows alone, and in none of a config without its text"
                )
