"""The phantom: radiographs rendered from a CT."""

from dataset_builder.generators.phantom.generator import PhantomGenerator

__all__ = ["PhantomGenerator"]
