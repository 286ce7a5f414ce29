"""`medsyn export-encoders`: a checkpoint's two encoders as folders that timm and transformers read on their own."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

import timm
import torch
from huggingface_hub import ModelCard, ModelCardData
from timm.models import save_for_hf
from torch import nn
from tqdm import tqdm
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import cached_file, extract_commit_hash

from hub_medsyn.cards.render import render_card
from hub_medsyn.configuration_medsyn import MedSynConfig
from hub_medsyn.image_processing_medsyn import MedSynImageProcessor
from hub_medsyn.modeling_medsyn import MedSynPreTrainedModel, without_pooler
from medsyn.errors import UserError, add_debug_option, command, reading
from medsyn.files import folder_or_hub_id

PROCESSOR_NAME = "medsyn_image_processor.json"
# What timm needs to read weights of its own; the rest of its record tells where its authors' weights came from.
STRUCTURE = ("first_conv", "classifier", "fixed_input_size", "custom_load")


def timm_preprocessing(processor: MedSynImageProcessor) -> dict:
    """The settings with which timm's transforms come closest to an image processor of ours.

    They agree on 8-bit grey images that are square and already of the processor's size. Other sizes differ by the
    resize: bilinear in timm, by area here. Images that are not square have black borders here, and grey ones of the
    mean in timm. Images of more than 8 bits, which timm would clip, are for [`MedSynImageProcessor`] alone.

    Args:
        processor ([`MedSynImageProcessor`]): Of the checkpoint.

    Returns:
        `dict`: `input_size` (channels, height, width), `mean` and `std` by channel, `interpolation`, `crop_pct` and
        `crop_mode` of a timm `pretrained_cfg`.
    """
    channels, size, side = processor.num_channels, processor.size["longest_edge"], processor.output_size
    crop = side / size
    if math.floor(side / crop) != size:  # as timm finds the size back; a rounding away
        crop = math.nextafter(crop, 0)
    return {
        "input_size": [channels, side, side],
        "mean": channel_values(processor.image_mean, channels),
        "std": channel_values(processor.image_std, channels),
        "interpolation": "bilinear",
        "crop_pct": crop,
        "crop_mode": "border",
    }


def channel_values(value: float | list[float], channels: int) -> list[float]:
    values = [float(entry) for entry in (value if isinstance(value, list | tuple) else [value])]
    if channels == 1:
        return [sum(values) / len(values)]
    return values * 3 if len(values) == 1 else values


def check_processor(config: MedSynConfig, processor: MedSynImageProcessor) -> None:
    """
    Raises:
        UserError: If the image encoder cannot take what the processor makes.
    """
    if not isinstance(processor, MedSynImageProcessor):
        raise UserError(
            f"the checkpoint's image processor is a {type(processor).__name__}; save a MedSynImageProcessor with the "
            "settings that the model was trained with beside it"
        )
    channels = (config.vision_config.model_args or {}).get("in_chans", 3)
    if processor.num_channels != channels:
        raise UserError(
            f"the image encoder takes {channels} channels and its processor makes {processor.num_channels}; "
            f"save MedSynImageProcessor(num_channels={channels}) with the checkpoint"
        )
    fixed_size = timm.get_pretrained_cfg(config.vision_config.architecture).fixed_input_size
    if fixed_size and processor.output_size != config.image_size:
        raise UserError(
            f"the image encoder takes images of {config.image_size} pixels and its processor makes "
            f"{processor.output_size}; save MedSynImageProcessor(size={config.image_size}) with the checkpoint"
        )


def enlarged_to(model: MedSynPreTrainedModel) -> int | None:
    """The side to which the model itself enlarges images before its encoder, if it does."""
    fixed_size = timm.get_pretrained_cfg(model.config.vision_config.architecture).fixed_input_size
    if fixed_size or getattr(model, "region_stage", None) is None:
        return None
    return model.config.upsample_size or None


def save_image_encoder(model: MedSynPreTrainedModel, processor: MedSynImageProcessor, folder: Path) -> None:
    """Writes a folder for `timm.create_model("local-dir:...")` and `AutoModel.from_pretrained`.

    Raises:
        UserError: If the encoder read back, either way, does not give the very features of the checkpoint's.
    """
    encoder = model.vision_model.timm_model
    arguments = dict(model.config.vision_config.model_args or {})
    save_for_hf(encoder, str(folder), model_args=arguments, safe_serialization=True)
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings.get("model_args", {}).pop("num_classes", None)  # TimmWrapperModel sets it, and it stands on its own too
    recorded = settings["pretrained_cfg"]
    kept = {name: recorded[name] for name in STRUCTURE if name in recorded}
    settings["pretrained_cfg"] = {**kept, **timm_preprocessing(processor), "num_classes": 0}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    processor.to_json_file(folder / PROCESSOR_NAME)
    check_features(model, processor, folder)


def aligned(model: nn.Module) -> nn.Module:
    """Gives the weights memory of their own: a file is mapped at any address, which can change a sum's last bit."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model.eval()


@torch.no_grad()
def check_features(model: MedSynPreTrainedModel, processor: MedSynImageProcessor, folder: Path) -> None:
    side = processor.output_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, processor.num_channels, side, side, generator=generator)
    expected = aligned(model.vision_model)(pixels).pooler_output  # (2, width)
    found = {
        "timm": aligned(timm.create_model(f"local-dir:{folder}", pretrained=True))(pixels),
        "transformers": aligned(AutoModel.from_pretrained(folder))(pixels).pooler_output,
    }
    for library, features in found.items():
        if not torch.equal(features, expected):
            raise UserError(
                f"{library} does not read the image encoder {model.config.vision_config.architecture} with "
                f"{model.config.vision_config.model_args} as it was: a setting is lost on the way; nothing is written"
            )


def save_text_encoder(model: MedSynPreTrainedModel, checkpoint: str, revision: str | None, folder: Path) -> None:
    """Writes a folder for `AutoModel.from_pretrained` and `AutoTokenizer.from_pretrained`."""
    model.text_model.save_pretrained(folder)
    with reading(f"the tokenizer of {checkpoint}"):
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, revision=revision)
    tokenizer.init_kwargs.pop("processor_class", None)  # there is no processor in a folder without images,
    tokenizer._set_processor_class(None)  # and the tokenizer remembers it twice
    tokenizer.save_pretrained(folder)


def checkpoint_card_data(checkpoint: str, revision: str | None) -> dict:
    """What the checkpoint's own card says of licence, data, language and text policy, which hold for its parts too."""
    path = cached_file(checkpoint, "README.md", revision=revision, _raise_exceptions_for_missing_entries=False)
    if path is None:
        return {}
    metadata = ModelCard.load(path, ignore_metadata_errors=True).data.to_dict()
    inherited = ("license", "license_name", "license_link", "datasets", "language", "medsyn")
    return {name: metadata[name] for name in inherited if name in metadata}


def export_encoders(checkpoint: str | Path, out: str | Path, revision: str | None = None) -> Path:
    """Writes the image encoder and the text encoder of a checkpoint as two plain folders, without projection heads.

    `out/image` is read by `timm.create_model("local-dir:out/image", pretrained=True)` and by
    `AutoModel.from_pretrained("out/image")`; both are checked here to give the checkpoint's pooled features, bit for
    bit where the weights lie in memory alike. `out/text` is read by `AutoModel.from_pretrained` and
    `AutoTokenizer.from_pretrained`. Weights are 32-bit safetensors. Each folder has a card.

    Args:
        checkpoint (`str` or `Path`): A local folder or Hub id of a model of this package, with its processor.
        out (`str` or `Path`): The folder to write, which must not exist; it appears whole or not at all.
        revision (`str`, *optional*): Branch, tag or commit of a Hub id.

    Returns:
        `Path`: `out`.

    Raises:
        FileExistsError: If `out` exists.
        OSError: If there is no such checkpoint.
        UserError: If it is a model of another kind, model and processor do not belong together, or the image encoder
            does not come back as it was.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists; name another folder with --out, or remove it first")
    checkpoint = folder_or_hub_id(checkpoint, "checkpoint")
    with reading(f"the configuration of {checkpoint}"):
        config = AutoConfig.from_pretrained(checkpoint, revision=revision)
    if not isinstance(config, MedSynConfig):
        raise UserError(f"{checkpoint} is a {config.model_type} model, not a ConVIRT, GLoRIA or MGCA of hub_medsyn")
    with reading(f"the image processor of {checkpoint}"):
        processor = AutoImageProcessor.from_pretrained(checkpoint, revision=revision)
    check_processor(config, processor)
    with reading(f"the weights of {checkpoint}"):
        model = AutoModel.from_pretrained(checkpoint, revision=revision, dtype=torch.float32).eval()
    is_folder = Path(checkpoint).is_dir()
    commit = extract_commit_hash(cached_file(checkpoint, "config.json", revision=revision), None)
    values = {
        "source": Path(checkpoint).resolve().name if is_folder else checkpoint,
        "revision": None if is_folder else commit,
        "method": type(model).__name__.removesuffix("Model"),
        "config": config,
        "processor": processor,
        "processor_name": PROCESSOR_NAME,
        "enlarged": enlarged_to(model),
        "pooler_left_out": bool(without_pooler(config.text_config)),
    }
    inherited = checkpoint_card_data(checkpoint, revision)
    if not is_folder:
        inherited["base_model"] = checkpoint
    tags = ["radiology", "chest-x-ray", "medsyn"]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / "encoders"
        for part in tqdm(("image", "text"), desc="encoders", unit="encoder"):
            if part == "image":
                save_image_encoder(model, processor, folder / part)
                details = {"library_name": "timm", "pipeline_tag": "image-feature-extraction"}
            else:
                save_text_encoder(model, checkpoint, revision, folder / part)
                details = {"library_name": "transformers", "pipeline_tag": "feature-extraction"}
            if "medsyn" in inherited:
                words = part == "text" and inherited["medsyn"]["vocabulary_from_reports"]
                details["medsyn"] = inherited["medsyn"] | {"vocabulary_from_reports": words}
            metadata = ModelCardData(**inherited | details, tags=tags)
            card = render_card(f"{part}_encoder_card.md.jinja", metadata, folder=f"{out.name}/{part}", **values)
            card.save(folder / part / "README.md")
        folder.replace(out)
    return out


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="medsyn export-encoders",
        description="Writes the two encoders of a checkpoint, without projection heads, as folders that need nothing "
        "of this package: OUT/image for timm and transformers, OUT/text for transformers, each with a card that tells "
        "how to load it.",
        epilog="example: medsyn export-encoders runs/gloria --out encoders; then "
        "timm.create_model('local-dir:encoders/image', pretrained=True)",
    )
    arguments.add_argument("checkpoint", help="folder or Hub id of a ConVIRT, GLoRIA or MGCA with its processor")
    arguments.add_argument("--out", required=True, metavar="FOLDER", help="folder to write; it must not exist")
    arguments.add_argument("--revision", help="branch, tag or commit of a Hub id (default: its main branch)")
    add_debug_option(arguments)
    return arguments


@command("medsyn export-encoders")
def main(argv: list[str] | None = None) -> int:
    """Runs `medsyn export-encoders` and returns its exit code: 0 done, 1 failed with one sentence on stderr."""
    args = parser().parse_args(argv)
    out = export_encoders(args.checkpoint, args.out, args.revision)
    print(
        f"{out}/image: timm.create_model('local-dir:{out}/image', pretrained=True) or AutoModel.from_pretrained; "
        f"features equal those of the checkpoint\n"
        f"{out}/text: AutoModel.from_pretrained and AutoTokenizer; {out}/text/README.md shows how"
    )
    return 0
