"""A frozen encoder and its linear head as a stock image classifier that loads with nothing of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import DonutImageProcessor, TimmWrapperConfig, TimmWrapperForImageClassification

from hub_medsyn import MedSynImageProcessor
from hub_medsyn.checkpoints.export_encoders import PROCESSOR_NAME
from medsyn.errors import UserError
from trainers.downstream.encoders import FrozenEncoder


def save_classifier(
    folder: str | Path,
    encoder: FrozenEncoder,
    weight: np.ndarray,
    bias: np.ndarray,
    labels: Sequence[str],
    exclusive: bool = False,
) -> None:
    """Writes a `TimmWrapperForImageClassification` with its image processor, for
    `pipeline("image-classification", model=folder)`: a sigmoid a label, or a softmax over exclusive classes.

    The image processor is [`stock_processor`]; ours lies beside it, where
    [`~trainers.downstream.encoders.load_encoder`] finds it.

    Args:
        folder (`str` or `Path`): Where to.
        encoder ([`FrozenEncoder`]): One that says what timm calls it.
        weight (`np.ndarray` of shape `(features, labels)`), bias (`np.ndarray` of shape `(labels,)`): The head.
        labels (`Sequence[str]`): The names, in the order of the columns.
        exclusive (`bool`, *optional*, defaults to `False`): Whether an image has exactly one of the labels.

    Raises:
        UserError: The encoder says no architecture, or timm gives that architecture no linear classifier of this
            width.
    """
    if encoder.architecture is None:
        raise UserError(f"encoder {encoder.name} does not say what timm calls it: load it with load_encoder")
    config = TimmWrapperConfig(
        architecture=encoder.architecture,
        model_args=dict(encoder.arguments) or None,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
        problem_type="single_label_classification" if exclusive else "multi_label_classification",
    )
    model = TimmWrapperForImageClassification(config)
    classifier = model.timm_model.get_classifier()
    if not isinstance(classifier, torch.nn.Linear) or classifier.in_features != len(weight):
        raise UserError(
            f"encoder {encoder.name}: {encoder.architecture} has {classifier} for a classifier, not one linear layer "
            f"on {len(weight)} pooled features"
        )
    head = {id(classifier.weight): torch.from_numpy(weight.T), id(classifier.bias): torch.from_numpy(bias)}
    state = encoder.model.state_dict()
    for name, value in model.timm_model.state_dict(keep_vars=True).items():
        if id(value) in head:
            state[name] = head[id(value)].to(value.dtype)
    model.timm_model.load_state_dict(state)
    model.eval().save_pretrained(folder)
    processor = enlarged(encoder.processor, encoder.enlarge)
    stock_processor(processor).save_pretrained(folder)
    processor.to_json_file(Path(folder) / PROCESSOR_NAME)


def enlarged(processor: MedSynImageProcessor, side: int | None) -> MedSynImageProcessor:
    """Returns a processor that resizes to `side` pixels at once, in place of one followed by an enlargement."""
    if side is None:
        return processor
    return MedSynImageProcessor(
        size=round(processor.size["longest_edge"] * side / processor.output_size),
        crop_size=side if processor.crop_size else None,
        image_mean=processor.image_mean,
        image_std=processor.image_std,
        num_channels=processor.num_channels,
    )


def stock_processor(processor: MedSynImageProcessor) -> DonutImageProcessor:
    """The image processor of transformers that comes nearest to ours: longest side to the same size, zero padding to a
    square on both sides, the same centre crop and normalisation.

    Images that need no resize come out equal. A resize is bilinear with antialiasing instead of by area, and an image
    that is not square is resized twice; images of 16 bits are not spread. See docs/evaluation.md for what that
    changes.
    """
    side = processor.size["longest_edge"]
    mean, std = processor.image_mean, processor.image_std
    return DonutImageProcessor(
        size={"height": side, "width": side},
        do_resize=True,
        do_thumbnail=True,
        do_pad=True,
        do_center_crop=processor.crop_size is not None,
        crop_size=processor.crop_size,
        image_mean=mean if isinstance(mean, list) else [mean] * 3,
        image_std=std if isinstance(std, list) else [std] * 3,
    )
