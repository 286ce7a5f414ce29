"""How the published code of the three methods names its tensors, and where each of them goes here.

The names come from the modules of marshuang80/gloria (416466a), HKU-MedAI/MGCA (680fe4a) and
edreisMD/ConVIRT-pytorch (c99ca5f): what is `self.img_encoder.global_embedder` there is the tensor
`img_encoder.global_embedder.weight` of a checkpoint. Their ResNets are torchvision's and their ViT is named as timm's,
so that both keep their names inside the image encoder; ConVIRT numbers the children of its ResNet instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from medsyn.errors import UserError

VISION, TEXT = "vision_model.timm_model.", "text_model."
SEGMENTS = "text_model.embeddings.token_type_embeddings.weight"
# Modules that DataParallel and torch.compile put around others; no layer of the three methods has such a name.
WRAPPERS = ("module", "_orig_mod")


@dataclass(frozen=True)
class Layout:
    """The names of one method.

    Args:
        title (`str`): Of the method.
        code (`str`): Where its published code is.
        paper (`str`): Where its paper is.
        marker (`str`): A regular expression that matches names of this method and of no other.
        places (`dict[str, str]`): What names start with there, and what they start with here instead.
        not_needed (`dict[str, str]`): Regular expressions for names that have no counterpart here, and why.
    """

    title: str
    code: str
    paper: str
    marker: str
    places: dict[str, str]
    not_needed: dict[str, str]


NOT_NEEDED = {
    r"\.embeddings\.(position_ids|token_type_ids)$": "constants that are made anew",
    r"\.model\.pooler\.|^bert_model\.pooler\.": "BERT's pooler, whose output the method does not use",
    r"\.model\.cls\.|^bert_model\.cls\.": "heads of BERT's own pre-training",
    r"^img_encoder(_q)?\.model\.(fc|head)\.": "a classifier of images, which the method takes off",
}
LAYOUTS = {
    "gloria": Layout(
        title="GLoRIA",
        code="https://github.com/marshuang80/gloria",
        paper="https://openaccess.thecvf.com/content/ICCV2021/html/Huang_GLoRIA_ICCV_2021_paper.html",
        marker=r"img_encoder\.(?:global|local)_embedder\.",
        places={
            "img_encoder.model.": VISION,
            "img_encoder.global_embedder.": "image_head.",
            "img_encoder.local_embedder.": "region_head.",
            "text_encoder.model.": TEXT,
        },
        not_needed=NOT_NEEDED,
    ),
    "mgca": Layout(
        title="MGCA",
        code="https://github.com/HKU-MedAI/MGCA",
        paper="https://arxiv.org/abs/2210.06044",
        marker=r"(?:img_encoder_q|text_encoder_q|prototype_layer)\.",
        places={
            "img_encoder_q.model.": VISION,
            "img_encoder_q.global_embed.head.": "image_head.",
            "img_encoder_q.local_embed.head.": "region_head.",
            "text_encoder_q.model.": TEXT,
            "text_encoder_q.global_embed.head.": "text_head.",
            "text_encoder_q.local_embed.head.": "word_head.",
            "prototype_layer.": "prototypes.",
        },
        not_needed={
            **NOT_NEEDED,
            r"\.crossattention\.": "cross-attention, which the published code makes and never uses",
            r"^(patch|word)_local_atten_layer\.": "attention that the published settings leave off (use_local_atten)",
        },
    ),
    "convirt": Layout(
        title="ConVIRT",
        code="https://github.com/edreisMD/ConVIRT-pytorch",
        paper="https://arxiv.org/abs/2010.00747",
        marker=r"(?:res_features|res_l[12]|bert_l[12])\.",
        places={
            "res_features.0.": VISION + "conv1.",  # 2, 3 and 8 are ReLU and the poolings
            "res_features.1.": VISION + "bn1.",
            "res_features.4.": VISION + "layer1.",
            "res_features.5.": VISION + "layer2.",
            "res_features.6.": VISION + "layer3.",
            "res_features.7.": VISION + "layer4.",
            "res_l1.": "image_head.0.",
            "res_l2.": "image_head.2.",
            "bert_model.": TEXT,
            "bert_l1.": "text_head.0.",
            "bert_l2.": "text_head.2.",
        },
        not_needed=NOT_NEEDED,
    ),
}
# The convirt_module of HKU-MedAI/MGCA: heads with BatchNorm, and another text feature.
OTHER_CONVIRT = r"img_encoder\.(?:global|local)_embed\."

RESNETS = {
    (2, 2, 2, 2, False): "resnet18",
    (3, 4, 6, 3, False): "resnet34",
    (3, 4, 6, 3, True): "resnet50",
    (3, 4, 23, 3, True): "resnet101",
    (3, 8, 36, 3, True): "resnet152",
}
VITS = {(12, 768, 16): "vit_base_patch16_224", (24, 1024, 16): "vit_large_patch16_224"}


def unwrap(name: str) -> str:
    """A name without what DataParallel and torch.compile put in."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def recognise(names: Iterable[str], method: str | None = None) -> tuple[str, str]:
    """Tells the method by its names, and what stands before all of them (`gloria.` in Lightning's checkpoints).

    Args:
        names (`Iterable[str]`): Unwrapped names of tensors.
        method (`str`, *optional*): What the method has to be.

    Raises:
        UserError: If the names are of no method, or of another one than `method`.
    """
    names = list(names)
    found = {}
    for candidate, layout in LAYOUTS.items():
        matches = (re.match(rf"((?:.+\.)?){layout.marker}", name) for name in names)
        first = next((match for match in matches if match), None)
        if first is not None:
            found[candidate] = first[1]
    if method in found:
        return method, found[method]
    if method is None and len(found) == 1:
        return next(iter(found.items()))
    if any(re.match(rf"(?:.+\.)?{OTHER_CONVIRT}", name) for name in names):
        raise UserError(
            "the tensors are named as by the ConVIRT inside HKU-MedAI/MGCA, whose heads have BatchNorm; it is not one "
            f"of the layouts that are read: {', '.join(layout.code for layout in LAYOUTS.values())}"
        )
    if found:
        asked = "more than one method" if method is None else f"{' and '.join(found)}, not {method}"
        raise UserError(f"the tensors are named as by {asked}; name another --method or leave it out")
    raise UserError(
        f"no tensor is named as by {', '.join(LAYOUTS)}: the names begin with "
        f"{', '.join(sorted({name.split('.')[0] for name in names})[:6])}"
    )


def place(name: str, method: str) -> tuple[str | None, str | None]:
    """Where a tensor goes: its name here, or why it is not needed, or neither for a name that is not known.

    Args:
        name (`str`): Unwrapped, without what stands before all names.
        method (`str`): `gloria`, `mgca` or `convirt`.
    """
    layout = LAYOUTS[method]
    for pattern, why in layout.not_needed.items():
        if re.search(pattern, name):
            return None, why
    for there, here in layout.places.items():
        if name.startswith(there):
            return here + name.removeprefix(there), None
    return None, None


def layers_of(names: Iterable[str], before: str) -> int:
    """How many layers are numbered right after `before`."""
    numbers = (re.match(rf"{re.escape(before)}(\d+)\.", name) for name in names)
    return len({number[1] for number in numbers if number})


def image_architecture(tensors: dict[str, Tensor]) -> str:
    """timm's name of the image encoder, told by its blocks.

    Args:
        tensors (`dict[str, torch.Tensor]`): By their names here.

    Raises:
        UserError: If it is neither a ResNet of 18 to 152 layers nor a ViT-B/16 or ViT-L/16.
    """
    if VISION + "patch_embed.proj.weight" in tensors:
        width, _, patch, _ = tensors[VISION + "patch_embed.proj.weight"].shape
        blocks = layers_of(tensors, VISION + "blocks.")
        known, seen = VITS.get((blocks, width, patch)), f"a ViT of {blocks} blocks, width {width} and patch {patch}"
    else:
        stages = [layers_of(tensors, f"{VISION}layer{number}.") for number in (1, 2, 3, 4)]
        bottleneck = VISION + "layer1.0.conv3.weight" in tensors
        known = RESNETS.get((*stages, bottleneck))
        seen = f"an encoder with stages layer1 to layer4 of {', '.join(map(str, stages))} blocks"
    if known is None:
        raise UserError(
            f"{seen} is none of {', '.join((*RESNETS.values(), *VITS.values()))}; name the timm architecture with the "
            "same tensors (--image-encoder)"
        )
    return known


def switches_from(tensors: dict[str, Tensor], method: str, text_layers: int) -> dict[str, int]:
    """The widths and numbers of the configuration that the shapes of the tensors tell.

    Args:
        tensors (`dict[str, torch.Tensor]`): By their names here.
        method (`str`): `gloria`, `mgca` or `convirt`.
        text_layers (`int`): How many layers the text encoder of the configuration has.
    """
    sources = {
        "gloria": {},
        "convirt": {"projection_dim": "image_head.2.weight"},
        "mgca": {
            "head_dim": "image_head.0.weight",
            "projection_dim": "image_head.3.weight",
            "num_prototypes": "prototypes.weight",
        },
    }[method]
    switches = {switch: len(tensors[name]) for switch, name in sources.items() if name in tensors}
    there = layers_of(tensors, TEXT + "encoder.layer.")
    if method == "mgca" and there:
        switches["text_layers"] = min(there, text_layers)
    return switches
