"""What the folder of a model or an encoder gives its repository, by lists of what may leave."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import ModelCard, RepoCard
from safetensors import safe_open

from hub_medsyn.cards.render import keep_what_people_wrote, renamed_in_code
from hub_medsyn.checkpoints.remote_code import add_remote_code
from hub_medsyn.policy.verdict import Verdict, judge_model
from hub_medsyn.publishing.repository import Repository
from medsyn.errors import UserError, reading

CARD = "README.md"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
PROCESSING = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "medsyn_image_processor.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
TELLING = ("training_curve.png", "conversion.json")
WEIGHT_NOTES = frozenset({"format", "lora_adapter_metadata"})  # of transformers and diffusers: settings alone
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def allowed_files(folder: Path, patterns: Iterable[str]) -> dict[str, Path]:
    """The files right in a folder whose names match one of the patterns, by name."""
    patterns = tuple(patterns)
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in patterns)
    }


def check_weights(folder: Path, files: dict[str, Path]) -> None:
    """
    Raises:
        FileNotFoundError: If there are no safetensors among the files, or not all that their index lists.
        UserError: If there are words beside the weights.
    """
    if not any(name.endswith(".safetensors") for name in files):
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        only = f", only {pickles[0]}, which may run code of anybody when it is read" if pickles else ""
        raise FileNotFoundError(
            f"{folder} holds no weights as safetensors{only}; save the model with `save_pretrained` of transformers"
        )
    for name, path in files.items():
        if name.endswith(".safetensors"):
            with reading(path), safe_open(path, framework="numpy") as file:
                notes = sorted(set(file.metadata() or {}) - WEIGHT_NOTES)
            if notes:
                raise UserError(
                    f"{path} holds the note {notes[0]!r} beside its weights, where some trainers put their captions; "
                    "save the weights anew with safetensors' `save_file`, which writes none"
                )
        if name.endswith(".safetensors.index.json"):
            with reading(path):
                listed = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
            if missing := sorted(listed - files.keys()):
                raise FileNotFoundError(f"{folder} lacks {missing[0]}, which {name} lists; copy the whole folder")


def read_json(path: Path) -> dict:
    """
    Raises:
        UserError: If it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None


class ModelRepository:
    """
    The part that is alike in all that goes to a model repository: judged by its card, which is kept as people left it.

    Args:
        folder (`Path`): Of the weights; its name stands in the card's examples.
        files (`dict[str, Path | bytes]`): All that leaves but the card.
        card (`str`): The card's text.
        replaces (`tuple[str, ...]`): What goes from the repository unless it is among the files.
        message (`str`): Of the commit.
        words (`bool`): Whether a vocabulary is among the files.
    """

    repo_type = "model"

    def __init__(
        self,
        folder: Path,
        files: dict[str, Path | bytes],
        card: str,
        replaces: tuple[str, ...],
        message: str,
        words: bool,
    ):
        self.folder, self.sources, self.card = folder, files, ModelCard(card, ignore_metadata_errors=True)
        self.replaces, self.message, self.words = replaces, message, words

    def judge(self, repository: Repository, private: bool, gated: bool) -> Verdict:
        """Judges what the card says of the reports that the weights were trained on."""
        origin = self.card.data.to_dict().get("medsyn", {})
        from_reports = bool(origin.get("vocabulary_from_reports")) and self.words
        return judge_model(origin.get("text_policy"), from_reports, private, gated)

    def files(self, repository: Repository) -> dict[str, Path | bytes]:
        """
        Raises:
            CardConflict: If people wrote different things into the folder's card and the Hub's.
        """
        return {**self.sources, CARD: self._card(repository).encode()}

    def _card(self, repository: Repository) -> str:
        places: dict[str, RepoCard | str] = {f"the {CARD} of {self.folder}": self.card}
        on_hub = repository.read(CARD)
        if on_hub is not None:
            places[f"the {CARD} of {repository.repo_id}"] = on_hub
        card = keep_what_people_wrote(self.card, *places.values(), places=tuple(places))
        given = self.folder.resolve()
        names = {str(self.folder), given.name, f"{given.parent.name}/{given.name}"}
        return renamed_in_code(str(card), names, repository.repo_id)


def local_card(folder: Path, remedy: str) -> str:
    """
    Raises:
        FileNotFoundError: If the folder has no card.
    """
    path = folder / CARD
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {CARD}, which tells what the weights are; {remedy}")
    return path.read_text(encoding="utf-8")


def stage_model(folder: str | Path, message: str | None = None) -> ModelRepository:
    """
    A checkpoint of this package, with the code to load it where the package is missing.

    Weights, configuration, processor, card, curve and `conversion.json` leave; checkpoints, optimizers, arguments of
    the trainer and pickles do not. The folder itself is not changed.

    Raises:
        FileNotFoundError: If weights or card are missing.
        UserError: If it is no checkpoint of this package with its processor.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint: it holds no config.json; `medsyn pretrain` writes one")
    weights = allowed_files(folder, WEIGHTS)
    check_weights(folder, weights)
    card = local_card(folder, "`medsyn pretrain` and `medsyn convert` write one")
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in allowed_files(folder, PROCESSING).items():
            shutil.copyfile(path, Path(scratch) / name)
        try:
            add_remote_code(scratch)
        except ValueError as error:
            raise UserError(str(error).replace(scratch, str(folder))) from None
        small = {path.name: path.read_bytes() for path in sorted(Path(scratch).iterdir())}
    files = {**small, **weights, **allowed_files(folder, TELLING)}
    replaces = (*WEIGHTS, *PROCESSING, *TELLING, "configuration_*.py", "modeling_*.py", "loss_*.py")
    return ModelRepository(folder, files, card, replaces, message or f"Publish {folder.resolve().name}", words=True)


def encoder_folders(folder: str | Path) -> dict[str, Path]:
    """
    The encoders in a folder and what their repositories' names end in.

    timm reads nothing but the root of a repository, so that each encoder has its own.

    Returns:
        `dict[str, Path]`: `{"-image": ..., "-text": ...}` for what `medsyn export-encoders` wrote, `{"": folder}` for
        one of the two.

    Raises:
        FileNotFoundError: If there is none.
    """
    folder = Path(folder)
    if (folder / "config.json").is_file():
        return {"": folder}
    found = {f"-{part}": folder / part for part in ("image", "text") if (folder / part / "config.json").is_file()}
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no encoder: neither config.json nor the folders image and text; "
            "`medsyn export-encoders` writes them"
        )
    return found


def stage_encoder(folder: Path, message: str | None = None) -> ModelRepository:
    """
    An image encoder for timm and transformers, or a text encoder.

    Raises:
        FileNotFoundError: If weights or card are missing.
        UserError: If it is a whole model.
    """
    config = read_json(folder / "config.json")
    if "vision_config" in config:
        raise UserError(
            f"{folder} is a whole {config.get('model_type')} model; publish it as `model`, or its encoders after "
            "`medsyn export-encoders`"
        )
    files = allowed_files(folder, (*WEIGHTS, *PROCESSING))
    check_weights(folder, files)
    card = local_card(folder, "`medsyn export-encoders` writes one")
    name = folder.resolve().name
    words = "architecture" not in config  # timm's: an encoder of images
    return ModelRepository(folder, files, card, (*WEIGHTS, *PROCESSING), message or f"Publish {name} encoder", words)
