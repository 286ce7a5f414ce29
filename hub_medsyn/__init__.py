"""Image-text encoders for radiographs. Importing the package registers them with transformers."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForObjectDetection,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    VisionTextDualEncoderProcessor,
)

from .configuration_detection import MedSynDetectionConfig
from .configuration_medsyn import ConVIRTConfig, GLoRIAConfig, MedSynConfig, MGCAConfig
from .image_processing_detection import MedSynDetectionImageProcessor
from .image_processing_medsyn import MedSynImageProcessor
from .inference import pipelines
from .modeling_convirt import ConVIRTModel
from .modeling_detection import DetectionOutput, MedSynForObjectDetection
from .modeling_gloria import GLoRIAModel
from .modeling_mgca import MGCAModel
from .modeling_outputs import ContrastiveOutput

__all__ = [
    "ContrastiveOutput",
    "ConVIRTConfig",
    "ConVIRTModel",
    "DetectionOutput",
    "GLoRIAConfig",
    "GLoRIAModel",
    "MGCAConfig",
    "MGCAModel",
    "MedSynConfig",
    "MedSynDetectionConfig",
    "MedSynDetectionImageProcessor",
    "MedSynForObjectDetection",
    "MedSynImageProcessor",
]

for config, model in ((ConVIRTConfig, ConVIRTModel), (GLoRIAConfig, GLoRIAModel), (MGCAConfig, MGCAModel)):
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, model)
    AutoModelForZeroShotImageClassification.register(config, model)
    AutoImageProcessor.register(
        config, slow_image_processor_class=MedSynImageProcessor, fast_image_processor_class=MedSynImageProcessor
    )
    AutoProcessor.register(config, VisionTextDualEncoderProcessor)

AutoConfig.register(MedSynDetectionConfig.model_type, MedSynDetectionConfig)
AutoModelForObjectDetection.register(MedSynDetectionConfig, MedSynForObjectDetection)
AutoImageProcessor.register(
    MedSynDetectionConfig,
    slow_image_processor_class=MedSynDetectionImageProcessor,
    fast_image_processor_class=MedSynDetectionImageProcessor,
)

pipelines.register()
