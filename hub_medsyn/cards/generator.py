"""The card of a generator: a diffusers pipeline, or LoRA weights for one, described from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from medsyn.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

INDEX, LORA_WEIGHTS = "model_index.json", "pytorch_lora_weights.safetensors"
DOWN = (".lora_A.weight", ".lora.down.weight", ".lora_down.weight", ".lora_linear_layer.down.weight")


def generator_card(path: str | Path, name: str, base_model: str | None = None) -> ModelCard:
    """
    A card that tells what can be read off the files, and how to draw with them.

    Args:
        path (`str` or `Path`): The folder of a diffusers pipeline, or LoRA weights: a `.safetensors` file or a folder
            that holds `pytorch_lora_weights.safetensors`, which is what the weights are called in their repository.
        name (`str`): The folder's name, or `<org>/<name>` on the Hub.
        base_model (`str`, *optional*): Of LoRA weights: the pipeline that they were trained for, as an id on the Hub.
            By default what `adapter_config.json` beside them says.

    Returns:
        `huggingface_hub.ModelCard`

    Raises:
        FileNotFoundError: If there is neither a pipeline nor LoRA weights.
        UserError: If the weights are no LoRA.
    """
    from huggingface_hub import ModelCardData

    from hub_medsyn.cards.render import origin_of_weights, render_card

    path = Path(path)
    lora, base = None, None
    if (path / INDEX).is_file():
        facts = pipeline_facts(path)
    else:
        weights = path if path.is_file() else path / LORA_WEIGHTS
        if not weights.is_file():
            raise FileNotFoundError(f"{path} holds no generator: neither {INDEX} nor {LORA_WEIGHTS}")
        lora, base = LORA_WEIGHTS, base_model or recorded_base(weights.parent)
        facts = lora_facts(weights)
    metadata = ModelCardData(
        language="en",
        license="other",
        library_name="diffusers",
        pipeline_tag="text-to-image",
        base_model=base,
        tags=["radiology", "chest-x-ray", "medsyn", *(["lora"] if lora else [])],
        medsyn=origin_of_weights(),
    )
    return render_card("generator_card.md.jinja", metadata, name=name, lora=lora, base=base, facts=facts)


def pipeline_facts(folder: Path) -> dict[str, str]:
    """What `model_index.json` and the configurations of the parts say of a pipeline."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    facts = {"pipeline": f"`{index['_class_name']}`"}
    for part, (_, kind) in ((part, value) for part, value in index.items() if isinstance(value, list)):
        if kind is not None:
            facts[part.replace("_", " ")] = f"`{kind}`"
    denoiser = next((folder / part for part in ("unet", "transformer") if (folder / part).is_dir()), None)
    decoder = folder / "vae" / "config.json"
    if denoiser is not None and decoder.is_file():
        size = json.loads((denoiser / "config.json").read_text(encoding="utf-8")).get("sample_size")
        levels = json.loads(decoder.read_text(encoding="utf-8")).get("block_out_channels")
        if isinstance(size, int) and levels:
            side = size * 2 ** (len(levels) - 1)
            facts["image"] = f"{side} x {side} px"
    return facts


def lora_facts(weights: Path) -> dict[str, str]:
    """
    Which parts a file of LoRA weights changes, and its ranks.

    Raises:
        UserError: If it holds no LoRA.
    """
    from safetensors import safe_open

    ranks, parts = set(), {}
    with safe_open(weights, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            if name.endswith(DOWN):
                ranks.add(file.get_slice(name).get_shape()[0])
                part = name.partition(".")[0]
                parts[part] = parts.get(part, 0) + 1
    if not parts:
        raise UserError(f"{weights} holds no LoRA weights; save them with save_lora_weights of a diffusers pipeline")
    return {
        "rank": ", ".join(str(rank) for rank in sorted(ranks)),
        **{f"layers changed in {part.replace('_', ' ')}": f"{number:,}" for part, number in sorted(parts.items())},
    }


def recorded_base(folder: Path) -> str | None:
    """The base model in peft's `adapter_config.json`, where it is an id on the Hub and not somebody's folder."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None
    base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    return base if isinstance(base, str) and base.count("/") == 1 and base[0] not in "/.~" else None
