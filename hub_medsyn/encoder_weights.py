"""Image encoders by name, folder or Hub id, and weights from files of other layouts."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TimmWrapperConfig
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperModel

PREFIXES = ("module.", "timm_model.", "vision_model.timm_model.")
SAVE_AGAIN = (
    "import sys, torch; s = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
    "torch.save(s.get('state_dict', s.get('model', s)), sys.argv[2])"
)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """Reads tensors by name: a state dict, one under `state_dict` (Lightning) or `model` (DeiT), or `.safetensors`.

    Nothing of a torch file is run: it is read with `weights_only=True`, and no class beyond torch's own short list is
    allowed, however harmless.

    Returns:
        `tuple[dict[str, torch.Tensor], list[str]]`: The state dict, and the names of what else the file holds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file asks for a class or function, is damaged, or holds no tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path), []
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no common class: pickle, zip, key and runtime errors all come from it
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            reason = (str(error).splitlines() or ["it is empty"])[0]
            raise ValueError(f"{path} cannot be read as a checkpoint ({type(error).__name__}: {reason})") from error
        command = shlex.join(["python", "-c", SAVE_AGAIN, str(path), str(path.with_name(f"{path.stem}-tensors.pt"))])
        raise ValueError(
            f"{path} is refused: it does not hold tensors alone but asks for {wanted[1]}, and loading such a file can "
            "run any code. Nothing of it was loaded. If you trust who made it, save its tensors alone, in an "
            f"environment that you can throw away and that has the package of {wanted[1]}, and name that file "
            "instead:\n"
            f"  {command}"
        ) from error
    entries = content if isinstance(content, dict) else {}
    inner = next((name for name in ("state_dict", "model") if isinstance(entries.get(name), dict)), None)
    state = entries if inner is None else entries[inner]
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor) and isinstance(name, str)}
    if not tensors:
        holds = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{path} holds no tensors by name, alone or under 'state_dict' or 'model', only: {holds or 'nothing'}"
        )
    others = [] if inner is None else [str(name) for name in entries if name != inner]
    return tensors, others + [str(name) for name in state if name not in tensors]


def with_channels(state: dict[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Weights whose first convolution takes grey images, summed over the colours that it was trained on, as timm does
    it; any others as they are."""
    first = next((name for name, value in state.items() if value.ndim == 4), None)
    if channels != 1 or first is None or state[first].shape[1] != 3:
        return state
    return {**state, first: timm.models.adapt_input_conv(1, state[first])}


def load_image_weights(encoder: nn.Module, path: str | Path) -> None:
    """Loads a classifier's weights into a timm encoder that has no head.

    Names are used where they agree. Where they do not (torchvision's MobileNetV2 for timm's `mobilenetv2_100`, say),
    both hold the same layers in the same order: tensors are matched by order, each with the same shape. A head at the
    end of the file is left out, and weights for colours are summed for an encoder of grey images.

    Args:
        encoder (`torch.nn.Module`): Made by `timm.create_model(..., num_classes=0)`; its weights are replaced.
        path (`str` or `Path`): A `.pth` or `.safetensors` file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is refused (see [`read_checkpoint`]), or neither names nor order fit, naming the first
            tensor that does not.
    """
    state, _ = read_checkpoint(path)
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    wanted = {name: value for name, value in encoder.state_dict().items() if not name.endswith("num_batches_tracked")}
    state = with_channels(state, next((value.shape[1] for value in wanted.values() if value.ndim == 4), 3))
    if not wanted.keys() <= state.keys():
        given = [(name, value) for name, value in state.items() if not name.endswith("num_batches_tracked")]
        if len(given) < len(wanted):
            raise ValueError(f"{path} holds {len(given)} tensors, the image encoder needs {len(wanted)}")
        state = {}
        for (name, value), (old_name, old_value) in zip(wanted.items(), given, strict=False):
            if value.shape != old_value.shape:
                raise ValueError(
                    f"{path} does not fit the image encoder: by order {old_name} {tuple(old_value.shape)} would be "
                    f"{name} {tuple(value.shape)}; name the architecture that the file belongs to"
                )
            state[name] = old_value
        left_over = given[len(wanted) :]
        if len(left_over) > 2:
            raise ValueError(
                f"{path} holds {len(left_over)} tensors more than the image encoder, from {left_over[0][0]} on"
            )
    for name, value in wanted.items():
        if state[name].shape != value.shape:
            raise ValueError(
                f"{name} is {tuple(state[name].shape)} in {path}, {tuple(value.shape)} in the image encoder"
            )
    encoder.load_state_dict({name: state[name] for name in wanted}, strict=False)


def _timm_encoder(architecture: str, arguments: dict, pretrained: bool) -> nn.Module:
    """A timm model without a head; names what to do where its weights cannot be fetched."""
    remedy = f"name a file with image_weights (--image_weights), or take random weights with random:{architecture}"
    if pretrained and not timm.get_pretrained_cfg(architecture).has_weights:
        raise ValueError(f"timm has no pretrained weights for {architecture!r}: {remedy}")
    try:
        return timm.create_model(architecture, pretrained=pretrained, num_classes=0, **arguments)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise ValueError(
            f"the pretrained weights of {architecture!r} cannot be fetched ({type(error).__name__}): {remedy}"
        ) from error


def load_image_encoder(
    image: str, image_size: int, num_channels: int = 3, image_weights: str | Path | None = None
) -> tuple[nn.Module, TimmWrapperConfig]:
    """Makes a timm encoder without a head, and the configuration that a `TimmWrapperModel` needs to be the same.

    Args:
        image (`str`):
            A timm model name (`resnet50`: the pretrained weights that timm fetches), `random:` before such a name
            (random weights), a folder that timm or `TimmWrapperModel` saved, or a Hub id (`timm/resnet50.tv_in1k`).
        image_size (`int`):
            Side of the images in pixels; the position embeddings of timm's weights are resampled to it.
        num_channels (`int`, *optional*, defaults to 3): 1 or 3.
        image_weights (`str` or `Path`, *optional*):
            A file for [`load_image_weights`], in place of the weights that timm would fetch for a name.

    Returns:
        `tuple[torch.nn.Module, TimmWrapperConfig]`: `pretrained_cfg` of the configuration holds the mean and
        deviation that the weights expect, and is absent when they are random.

    Raises:
        ValueError: If `image` is none of these, its weights cannot be fetched, `num_channels` is neither 1 nor 3, or a
            folder of Transformers holds an encoder of other channels or of another fixed size; timm's own weights are
            adapted to both.
    """
    random, image = image.startswith("random:"), image.removeprefix("random:")
    if random and (image_weights is not None or not timm.is_model(image)):
        raise ValueError(f"random:{image} takes the name of a timm model and no file of weights")
    if not Path(image).is_dir() and (image.startswith((".", "/", "~")) or image.count("/") > 1):
        raise ValueError(f"there is no folder {image} of an image encoder")
    if Path(image).is_dir() or "/" in image:
        saved = TimmWrapperConfig.from_pretrained(image)
        architecture, arguments = saved.architecture, dict(saved.model_args or {})
    elif timm.is_model(image):
        saved, architecture, arguments = None, image, {}
    else:
        raise ValueError(
            f"image encoder {image!r} is neither a folder, a Hub id (owner/name), nor a timm architecture; "
            "python -c 'import timm; print(timm.list_models())' lists them"
        )
    arguments.pop("num_classes", None)
    if num_channels not in (1, 3):
        raise ValueError(f"num_channels={num_channels} is neither 1 nor 3")
    if num_channels != 3:
        arguments["in_chans"] = num_channels
    if timm.get_pretrained_cfg(architecture).fixed_input_size:
        arguments["img_size"] = image_size
    fetched = saved is None and not random and image_weights is None
    if saved is None:
        encoder = _timm_encoder(architecture, arguments, pretrained=fetched)
    elif saved.architectures:  # saved by transformers
        kept = dict(saved.model_args or {})
        expected = {"in_chans": 3, "img_size": timm.get_pretrained_cfg(architecture).input_size[-1], **kept}
        for name, asked in (("in_chans", num_channels), ("img_size", arguments.get("img_size"))):
            if asked is not None and expected[name] != asked:
                raise ValueError(
                    f"the image encoder in {image} has {name}={expected[name]}, and {name}={asked} is asked for; "
                    "pass num_channels and image_size as they were"
                )
        encoder = TimmWrapperModel.from_pretrained(image, config=saved).timm_model
        arguments = kept
    else:  # saved by timm
        source = f"local-dir:{image}" if Path(image).is_dir() else f"hf-hub:{image}"
        encoder = timm.create_model(source, pretrained=True, num_classes=0, **arguments)
    config = TimmWrapperConfig(architecture=architecture, model_args=arguments or None)
    if image_weights is not None:
        load_image_weights(encoder, image_weights)
    if saved is not None or fetched or image_weights is not None:
        statistics = getattr(saved, "pretrained_cfg", None) or encoder.pretrained_cfg
        config.pretrained_cfg = {name: list(statistics[name]) for name in ("mean", "std")}
    return encoder, config
