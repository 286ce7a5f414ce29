"""Pipelines of transformers that read radiographs in their full depth.

The stock ones open and convert an image before the image processor sees it, which cuts 16-bit images off at 255. Those
below differ for models with an image processor of ours alone, and take the places of the stock ones in `pipeline()`.
"""

from __future__ import annotations

from PIL import Image
from transformers import (
    ImageClassificationPipeline,
    ImageFeatureExtractionPipeline,
    ObjectDetectionPipeline,
    ZeroShotImageClassificationPipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY

from hub_medsyn.image_files import upright
from hub_medsyn.image_processing_medsyn import MedSynImageProcessor, to_grey


class _FullDepth:
    """Makes 8 bits of an image as [`to_grey`] does before the pipeline converts it."""

    def preprocess(self, image, *args, **kwargs):
        if isinstance(self.image_processor, MedSynImageProcessor):
            image = self.image_processor.fetch_images(image)
            image = Image.fromarray(to_grey(upright(image) if isinstance(image, Image.Image) else image))
        return super().preprocess(image, *args, **kwargs)


class RadiographClassificationPipeline(_FullDepth, ImageClassificationPipeline):
    """`image-classification`"""


class RadiographFeatureExtractionPipeline(_FullDepth, ImageFeatureExtractionPipeline):
    """`image-feature-extraction`"""


class RadiographDetectionPipeline(_FullDepth, ObjectDetectionPipeline):
    """`object-detection`"""


class ZeroShotRadiographClassificationPipeline(_FullDepth, ZeroShotImageClassificationPipeline):
    """`zero-shot-image-classification`"""


TASKS = {
    "image-classification": RadiographClassificationPipeline,
    "image-feature-extraction": RadiographFeatureExtractionPipeline,
    "object-detection": RadiographDetectionPipeline,
    "zero-shot-image-classification": ZeroShotRadiographClassificationPipeline,
}


def register() -> None:
    """Makes `pipeline()` use the classes of `TASKS`."""
    for task, pipeline_class in TASKS.items():
        PIPELINE_REGISTRY.supported_tasks[task]["impl"] = pipeline_class
