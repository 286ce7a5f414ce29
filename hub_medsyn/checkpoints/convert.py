"""`medsyn convert`: reads the checkpoint of a method's published code and writes a folder that transformers reads."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import timm
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    TimmWrapperConfig,
    VisionTextDualEncoderProcessor,
)

from hub_medsyn.checkpoints.convert_keys import (
    LAYOUTS,
    SEGMENTS,
    image_architecture,
    place,
    recognise,
    switches_from,
    unwrap,
)
from hub_medsyn.checkpoints.convert_report import REPORT_NAME, ConversionReport, write_card
from hub_medsyn.encoder_weights import read_checkpoint
from hub_medsyn.image_processing_medsyn import MedSynImageProcessor
from hub_medsyn.modeling_convirt import ConVIRTModel
from hub_medsyn.modeling_gloria import GLoRIAModel
from hub_medsyn.modeling_medsyn import MedSynPreTrainedModel
from hub_medsyn.modeling_mgca import MGCAModel
from medsyn.errors import UserError, add_debug_option, command

MODELS = {"gloria": GLoRIAModel, "mgca": MGCAModel, "convirt": ConVIRTModel}
TEXT_ENCODER = "emilyalsentzer/Bio_ClinicalBERT"
IMAGE_SIZE = 224
MAX_TOKENS = {"gloria": 97, "mgca": 112, "convirt": 512}
STATISTICS = {
    "gloria": {"mean": [0.5] * 3, "std": [0.5] * 3},
    "mgca": {"mean": [0.5] * 3, "std": [0.5] * 3},
    "convirt": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
LOWER_CASE = (
    "the tokenizer lower-cases texts; the published code also drops punctuation, which is left to whoever writes them"
)
PADDED = "images are padded to a square; the published code stretches them to one"


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file, tqdm(total=size, unit="B", unit_scale=True, desc="sha256", leave=False) as bar:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def load_text(text: str, tokenizer: str | None, method: str) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """The configuration of a text encoder, and its tokenizer as the method uses it.

    The published code of GLoRIA and MGCA lower-cases texts itself; here the tokenizer does.

    Raises:
        OSError: If there is no such encoder or tokenizer.
    """
    lower = {} if method == "convirt" else {"do_lower_case": True}
    try:
        config = AutoConfig.from_pretrained(text)
        tokenizer = AutoTokenizer.from_pretrained(tokenizer or text, **lower)
    except (OSError, ValueError) as error:
        raise OSError(
            f"cannot read configuration and tokenizer of the text encoder {text!r} "
            f"({str(error).splitlines()[0]}); name its folder with --text-encoder"
        ) from error
    config.name_or_path = Path(text).name if Path(text).is_dir() else text  # no path of this machine
    tokenizer.model_max_length = min(MAX_TOKENS[method], config.max_position_embeddings)
    return config, tokenizer


def convert_checkpoint(
    path: str | Path,
    text: str = TEXT_ENCODER,
    method: str | None = None,
    preset: str = "official",
    tokenizer: str | None = None,
    image_encoder: str | TimmWrapperConfig | None = None,
    image_size: int = IMAGE_SIZE,
    allow_missing: bool = False,
    seed: int = 0,
) -> tuple[MedSynPreTrainedModel, VisionTextDualEncoderProcessor, ConversionReport]:
    """Reads a checkpoint of the published code of GLoRIA, MGCA or ConVIRT.

    Args:
        path (`str` or `Path`): A Lightning `.ckpt`, a state dict (`.pt`, `.pth`) or a `.safetensors` file.
        text (`str`, *optional*, defaults to `"emilyalsentzer/Bio_ClinicalBERT"`):
            Folder or Hub id of the text encoder that the checkpoint was trained from. Its configuration and tokenizer
            are read; its weights are not.
        method (`str`, *optional*): `gloria`, `mgca` or `convirt`; told by the names of the tensors when left out.
        preset (`str`, *optional*, defaults to `"official"`):
            Of the configuration. Under another one the weights are the same, but `upsample_size=0` shows a ResNet
            smaller images than it was trained on.
        tokenizer (`str`, *optional*, defaults to that of `text`): Folder or Hub id of a tokenizer.
        image_encoder (`str` or `TimmWrapperConfig`, *optional*):
            timm architecture of the image encoder; ResNets and ViTs are told by their tensors when left out.
        image_size (`int`, *optional*, defaults to 224): Side of the images in pixels.
        allow_missing (`bool`, *optional*, defaults to `False`):
            Whether parameters that the file should hold and does not may start at random.
        seed (`int`, *optional*, defaults to 0): Of those.

    Returns:
        `tuple`: The model in eval mode; its processor, with the method's resize, statistics and text length; and the
        [`~hub_medsyn.checkpoints.convert_report.ConversionReport`].

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the text encoder's configuration or tokenizer cannot be read.
        UserError: If the file is refused (see [`~hub_medsyn.encoder_weights.read_checkpoint`]), is of no method or of
            another one, or its tensors do not fit: the first ten that have another shape, have no place or are missing
            are named.
    """
    path = Path(path)
    state, others = read_checkpoint(path)
    wrapped, state = state, {unwrap(name): value for name, value in state.items()}
    if len(state) < len(wrapped):
        raise UserError(f"{path} holds {len(wrapped) - len(state)} tensors twice, with and without `module.`")
    method, prefix = recognise(state, method)
    tensors, placed, not_needed, unknown = {}, {}, {}, []
    for name, value in state.items():
        here, why = place(name.removeprefix(prefix), method) if name.startswith(prefix) else (None, None)
        if here is not None:
            placed[name], tensors[here] = here, value
        elif why is not None:
            not_needed[name] = why
        else:
            unknown.append(name)
    text_config, words = load_text(text, tokenizer, method)
    config = MODELS[method].config_class(
        vision_config=vision_config_of(image_encoder or image_architecture(tensors), image_size, method),
        text_config=text_config,
        preset=preset,
        image_size=image_size,
        **switches_from(tensors, method, text_config.num_hidden_layers),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS[method](config).eval()
    model.set_vocabulary(words)
    made, missing = fill(model, tensors, method, path, allow_missing)
    report = ConversionReport(
        placed=placed,
        not_needed=not_needed,
        unknown=unknown,
        made=made,
        missing=missing,
        other_entries=others,
        notes=notes_of(method, model),
        file=path.name,
        sha256=sha256_of(path),
        method=method,
        prefix=prefix,
        preset=preset,
        image_encoder=config.vision_config.architecture,
        text_encoder=text_config.name_or_path,
        text_layers=config.text_config.num_hidden_layers,
    )
    return model, processor_of(method, words, image_size), report


def vision_config_of(image_encoder: str | TimmWrapperConfig, image_size: int, method: str) -> TimmWrapperConfig:
    if isinstance(image_encoder, str):
        if not timm.is_model(image_encoder):
            raise UserError(f"image encoder {image_encoder!r} is no architecture of timm, such as resnet50")
        fixed_size = timm.get_pretrained_cfg(image_encoder).fixed_input_size
        arguments = {"img_size": image_size} if fixed_size else None
        image_encoder = TimmWrapperConfig(architecture=image_encoder, model_args=arguments)
    image_encoder.pretrained_cfg = STATISTICS[method]
    return image_encoder


def fill(
    model: MedSynPreTrainedModel, tensors: dict[str, Tensor], method: str, path: Path, allow_missing: bool
) -> tuple[dict[str, str], list[str]]:
    """Loads tensors by their names here; returns what was made instead of read, and what is missing.

    Raises:
        UserError: If tensors have other shapes, too many names, or too few and `allow_missing` is not set.
    """
    wanted = model.state_dict()
    made = {"continues_word": "from the tokenizer"}
    if method == "mgca" and SEGMENTS in wanted and SEGMENTS not in tensors:
        # The published text encoder adds no segment embeddings, so that those of the encoder it grew from are gone.
        tensors = {**tensors, SEGMENTS: torch.zeros_like(wanted[SEGMENTS])}
        made[SEGMENTS] = "zeros: the published text encoder has no segment embeddings"
    for name in wanted:
        if name.endswith("num_batches_tracked") and name not in tensors:
            made[name] = "zero: files of old torch versions lack these counts, which nothing uses"
    surplus, fitting, wrong = [], {}, []
    for name, value in tensors.items():
        if name.split(".")[0] in ("region_head", "word_head") and value.shape[2:].numel() == 1:
            value = value.flatten(1) if value.ndim > 2 else value  # convolutions of kernel 1 there, linear here
        if name not in wanted:
            surplus.append(name)
        elif value.shape != wanted[name].shape:
            wrong.append(f"{name} is {tuple(value.shape)} in the file and {tuple(wanted[name].shape)} here")
        else:
            fitting[name] = value
    missing = [name for name in wanted if name not in tensors and name not in made]
    problems = [*wrong, *(f"{name} has no place here" for name in surplus)]
    if not allow_missing:
        problems += [f"{name} is missing in the file" for name in missing]
    if problems:
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        remedy = "name the encoders it was trained with (--text-encoder, --image-encoder)"
        if not wrong and not surplus:
            remedy = "convert a whole checkpoint, or let what is missing start at random (--allow-missing)"
        raise UserError(
            f"{path} does not fit {type(model).__name__} with {model.config.vision_config.architecture} and "
            f"{model.config.text_config.num_hidden_layers} text layers; {remedy}:\n  "
            + "\n  ".join(problems[:10])
            + more
        )
    model.load_state_dict(fitting, strict=False)
    return made, missing


def notes_of(method: str, model: MedSynPreTrainedModel) -> list[str]:
    notes = [PADDED] if method == "convirt" else [LOWER_CASE]
    if method != "convirt" and model.region_stage is not None and model.config.upsample_size != 299:
        notes.append(
            f"preset {model.config.preset} shows images at {model.config.image_size} pixels; the published code "
            "enlarges them to 299 for this encoder, so that features differ from those it was trained with"
        )
    return notes


def processor_of(
    method: str, tokenizer: PreTrainedTokenizerBase, image_size: int = IMAGE_SIZE
) -> VisionTextDualEncoderProcessor:
    """Images and texts as the method's published code evaluates them.

    GLoRIA and MGCA resize the longest side to 256, pad to a square, crop 224 in the middle and take 0.5 as mean and
    deviation; ConVIRT takes all of the image at 224 and ImageNet's statistics.
    """
    crop = {} if method == "convirt" else {"crop_size": image_size}
    # differs from edreisMD/ConVIRT-pytorch: there images are stretched to the square, here they are padded
    side = image_size if method == "convirt" else round(image_size * 256 / 224)
    statistics = STATISTICS[method]
    images = MedSynImageProcessor(size=side, image_mean=statistics["mean"], image_std=statistics["std"], **crop)
    return VisionTextDualEncoderProcessor(images, tokenizer)


def save_converted(
    model: MedSynPreTrainedModel,
    processor: VisionTextDualEncoderProcessor,
    report: ConversionReport,
    folder: str | Path,
) -> None:
    """Writes model, processor, card and `conversion.json` into a folder that is new or empty.

    Raises:
        UserError: If there is something in it.
    """
    folder = Path(folder)
    check_new(folder)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    report.save(folder)
    write_card(model, report, folder)


def check_new(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; choose another --out or remove it")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medsyn convert",
        description="Reads a checkpoint of the published code of GLoRIA, MGCA or ConVIRT and writes a folder that "
        "AutoModel, AutoProcessor and the zero-shot pipeline read after `import hub_medsyn`.",
        epilog="example: medsyn convert --checkpoint chexpert_resnet50.ckpt --text-encoder ./Bio_ClinicalBERT "
        "--out gloria-chexpert",
    )
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="a .ckpt, .pt, .pth or .safetensors file")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new folder for the converted model")
    parser.add_argument(
        "--text-encoder",
        default=TEXT_ENCODER,
        metavar="NAME",
        help="folder or Hub id of the text encoder the checkpoint was trained from; its configuration and tokenizer "
        "are read, its weights are not (default: %(default)s, as in all three methods)",
    )
    parser.add_argument("--tokenizer", metavar="NAME", help="another tokenizer than that of the text encoder")
    parser.add_argument(
        "--method", choices=list(LAYOUTS), help="whose checkpoint it is (default: told by the names of its tensors)"
    )
    parser.add_argument(
        "--image-encoder",
        metavar="NAME",
        help="timm architecture of the image encoder (default: the ResNet or ViT that its tensors tell)",
    )
    parser.add_argument(
        "--preset",
        choices=["official", "paper", "fixed"],
        default="official",
        help="settings of the written model; `official` computes what the published code does (default)",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="let parameters that the file lacks start at random instead of failing; they are listed",
    )
    parser.add_argument("--seed", type=int, help="of those random starts (default: 0)")
    add_debug_option(parser)
    return parser


@command("medsyn convert")
def main(argv: list[str] | None = None) -> int:
    """Runs `argv` (*optional*, defaults to `sys.argv[1:]`) and returns the exit code: 0 done, 1 failed.

    Bad usage exits with 2, as `argparse` does.
    """
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.seed is not None and not arguments.allow_missing:
        parser.error("--seed is of what --allow-missing lets start at random: pass both or neither")
    check_new(Path(arguments.out))
    model, processor, report = convert_checkpoint(
        arguments.checkpoint,
        arguments.text_encoder,
        method=arguments.method,
        preset=arguments.preset,
        tokenizer=arguments.tokenizer,
        image_encoder=arguments.image_encoder,
        allow_missing=arguments.allow_missing,
        seed=arguments.seed or 0,
    )
    save_converted(model, processor, report, arguments.out)
    print(report)
    print(f"\n{arguments.out} holds the model, its processor, {REPORT_NAME} and a README.md that tells how to use it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
