"""A generator, published and drawn with."""

import numpy as np
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi

from hub_medsyn.publishing.publish import publish_generator
from tests.fixtures.tiny_diffusion import save_tiny_lora, save_tiny_pipeline


def draw(pipeline: DiffusionPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "np"}
    return pipeline("Small left effusion.", generator=torch.Generator().manual_seed(0), **settings).images[0]


def test_a_generator_draws_the_same_from_the_hub(hub, tmp_path):
    here = save_tiny_pipeline(tmp_path / "generator")
    done = publish_generator(here, "your-org/generator")
    there = DiffusionPipeline.from_pretrained("your-org/generator")
    np.testing.assert_allclose(draw(there), draw(DiffusionPipeline.from_pretrained(here)), atol=1e-6)
    assert f'"{done.repo_id}"' in done.card and str(tmp_path) not in done.card
    assert HfApi().model_info("your-org/generator").library_name == "diffusers"
    hub.log.clear()
    assert publish_generator(here, "your-org/generator").commit is None and hub.uploads == []

    plain = draw(there)
    publish_generator(save_tiny_lora(tmp_path / "lora").parent, "your-org/lora")
    there.load_lora_weights("your-org/lora")
    assert np.abs(draw(there) - plain).max() > 0.01
