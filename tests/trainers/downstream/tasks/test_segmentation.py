"""A decoder on a frozen encoder: it learns, the encoder stays, masks move with images, Dice is at the image's size."""

import io
from dataclasses import replace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from torch import nn
from transformers import TrainerControl

from hub_medsyn import MedSynImageProcessor
from hub_medsyn.loss_segmentation import mixed_loss
from hub_medsyn.metrics.dice import dice, mask_counts
from tests.trainers.downstream.tasks.test_segmentation_models import small_channels, tiny_encoder
from trainers.downstream.images.annotated_images import AnnotatedImages
from trainers.downstream.tasks.head_training import LowestLoss
from trainers.downstream.tasks.segmentation import (
    ImagesAndMasks,
    SegmentationSettings,
    measure,
    predict,
    train_segmenter,
    turned,
    whole_images,
)
from trainers.downstream.tasks.segmentation_models import build_segmenter, decoder_state

SIZES = {"train": 24, "validation": 8, "test": 12}
QUICK = SegmentationSettings(
    epochs=8, batch_size=8, learning_rate=5e-3, augment=False, decoder_channels=small_channels("resnet")
)


def disc(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    radius = rng.uniform(0.15, 0.3) * min(height, width)
    y, x = rng.uniform(radius, height - radius), rng.uniform(radius, width - radius)
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def discs(seed: int = 0, empty: tuple[int, ...] = ()) -> AnnotatedImages:
    """Bright discs in noise, on images of several shapes; those of the rows `empty` have none."""
    rng = np.random.default_rng(seed)
    splits = np.repeat(list(SIZES), list(SIZES.values()))
    files, masks = [], []
    for row in range(len(splits)):
        height, width = [(48, 36), (40, 40), (30, 50)][row % 3]
        masks.append(disc(height, width, rng) & (row not in empty))
        pixels = rng.integers(0, 90, (height, width)) + 120 * masks[-1]
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    return AnnotatedImages(
        name="discs",
        ids=[f"image{row}" for row in range(len(splits))],
        encoded=lambda row: files[row],
        patients=np.array([f"{split}-{row}" for row, split in enumerate(splits)]),
        splits=splits,
        mask=lambda row: masks[row],
    )


@pytest.fixture(scope="module")
def images():
    return discs(empty=(5, 40))  # one image of training and one of the test split without a finding


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder("resnet")


@pytest.fixture(scope="module")
def run(encoder, images):
    return train_segmenter(encoder, images, images.rows("train"), 0, QUICK)


def test_it_learns_to_see_discs(run, encoder, images):
    untrained = build_segmenter(encoder, 0, QUICK.decoder_channels).eval()
    before, _ = measure(untrained, images, run.processor, 8)
    assert before.mean() < 0.4
    assert run.dice.mean() > before.mean() + 0.4
    assert run.dice[images.rows("test") != 40].min() > 0.5
    assert 1 <= len(run.validation_losses) <= 8 and min(run.validation_losses) < run.validation_losses[0] / 2


def test_the_encoder_did_not_change_and_all_of_the_decoder_did(run, encoder):
    start = build_segmenter(encoder, 0, QUICK.decoder_channels)
    for name, value in encoder.model.state_dict().items():  # BatchNorm statistics and counts included
        assert torch.equal(run.model.encoder.model.state_dict()[name], value), name
    assert not encoder.model.training and not run.model.training
    decoder = [(name, value) for name, value in run.model.named_parameters() if not name.startswith("encoder.")]
    assert len(decoder) > 20
    for name, value in decoder:
        assert not torch.equal(value, start.get_parameter(name)), name


def test_smp_reads_the_trained_model_back(run, images, tmp_path):
    run.model.save_pretrained(tmp_path)
    run.processor.save_pretrained(tmp_path)
    model, processor = smp.from_pretrained(tmp_path).eval(), MedSynImageProcessor.from_pretrained(tmp_path)
    radiographs = [images.open(row) for row in images.rows("test")]
    pixels = processor(radiographs, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        assert torch.equal(model(pixels), run.model(pixels))
    _, probabilities = predict(model, processor, radiographs)
    np.testing.assert_array_equal(
        dice(mask_counts(probabilities, [images.mask(row) for row in images.rows("test")])), run.dice
    )


def test_the_numbers_are_of_the_images_at_their_own_size(run, images):
    rows = images.rows("test")
    _, probabilities = predict(run.model, run.processor, [images.open(row) for row in rows])
    both = predicted = true = 0
    for place, row in enumerate(rows):
        mask, drawn = images.mask(row), probabilities[place].numpy() > 0.5
        assert drawn.shape == mask.shape == images.size(row)[::-1]
        total = drawn.sum() + mask.sum()
        assert run.dice[place] == pytest.approx(2 * (drawn & mask).sum() / total if total else 1.0)
        both, predicted, true = both + (drawn & mask).sum(), predicted + drawn.sum(), true + mask.sum()
    assert run.metrics["dice_per_image"] == pytest.approx(run.dice.mean())
    assert run.metrics["dice_dataset"] == pytest.approx(2 * both / (predicted + true))
    assert run.dice[rows == 40][0] in (0, 1)
    # The official number: at the network's size, the last 4 of the 12 images weighing as much as the first 8.
    held = ImagesAndMasks(images, rows, run.processor)
    with torch.no_grad():
        squares = run.model(held.batch([held[place] for place in range(12)])["pixel_values"])[:, 0] > 0
    per_image = dice(mask_counts(squares, held.masks))
    assert run.metrics["dice_official"] == pytest.approx((per_image[:8].mean() + per_image[8:].mean()) / 2)


def test_a_run_is_its_seed_and_its_rows(run, encoder, images):
    short = replace(QUICK, epochs=1, augment=True)
    rows = images.rows("train")[:8]
    torch.manual_seed(1)
    one = train_segmenter(encoder, images, rows, 3, short)
    torch.manual_seed(2)
    same = train_segmenter(encoder, images, rows, 3, short)
    other = train_segmenter(encoder, images, rows, 4, short)
    assert one.validation_losses == same.validation_losses and (one.dice == same.dice).all()
    assert one.validation_losses != other.validation_losses
    plain = train_segmenter(encoder, images, rows, 3, replace(short, augment=False))
    assert plain.validation_losses != one.validation_losses


def test_the_decoder_of_the_lowest_validation_loss_comes_back(encoder, images):
    wild = replace(QUICK, epochs=6, learning_rate=0.3)
    trained = train_segmenter(encoder, images, images.rows("train"), 0, wild)
    losses = trained.validation_losses
    assert np.argmin(losses) < len(losses) - 1  # else this would show nothing
    held = ImagesAndMasks(images, images.rows("validation"), trained.processor)
    batch = held.batch([held[place] for place in range(len(held))])
    with torch.no_grad():
        loss = mixed_loss(trained.model(batch["pixel_values"])[:, 0], batch["masks"])
    assert loss.item() == pytest.approx(min(losses), rel=1e-5)


def test_a_vit_is_decoded_too(images):
    encoder = tiny_encoder("vit", channels=1)
    settings = replace(QUICK, epochs=2, decoder_channels=small_channels("vit"))
    trained = train_segmenter(encoder, images, images.rows("train"), 0, settings)
    assert trained.validation_losses[1] < trained.validation_losses[0]
    assert isinstance(trained.model, smp.DPT)


@pytest.mark.parametrize("shape", [(40, 60), (60, 25), (32, 32), (20, 20), (101, 64)])
def test_a_mask_finds_its_way_into_the_square_and_back(shape):
    mask = disc(*shape, np.random.default_rng(2))
    image = Image.fromarray(mask.astype(np.uint8) * 255)

    class Grey(nn.Module):  # a segmenter whose probability is the grey value
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, pixel_values):
            return self.scale * torch.logit(pixel_values[:, :1] / 2 + 0.5, eps=1e-6)

    squares, probabilities = predict(Grey(), MedSynImageProcessor(size=32), [image])
    assert squares.shape == (1, 32, 32) and probabilities[0].shape == shape
    drawn = probabilities[0].numpy() > 0.5
    assert dice(mask_counts([drawn], [mask]))[0] > 0.94
    for axis in (0, 1):  # less than half a pixel of the image away, which is at most half of one of the network
        assert abs(np.nonzero(drawn)[axis].mean() - np.nonzero(mask)[axis].mean()) < 0.5


def test_nothing_of_an_image_is_cropped():
    processor = whole_images(
        MedSynImageProcessor(size=48, crop_size=32, image_mean=0.4, image_std=0.3, num_channels=1)
    )
    assert processor.crop_size is None and processor.output_size == 32
    expected = MedSynImageProcessor(size=32, image_mean=0.4, image_std=0.3, num_channels=1)
    assert processor.to_dict() == expected.to_dict()


def test_images_are_turned_by_seed_epoch_and_row_and_masks_with_them(images):
    processor = MedSynImageProcessor(size=32)
    rows = images.rows("train")
    radiographs, fewer = (
        ImagesAndMasks(images, rows, processor, seed=7),
        ImagesAndMasks(images, rows[4:], processor, seed=7),
    )
    assert all(
        (radiographs[place + 4][0] == fewer[place][0]).all() for place in range(8)
    )  # whatever else is in the budget
    first = [radiographs[place][0] for place in range(8)]
    radiographs.epoch = 1
    assert any((radiographs[place][0] != first[place]).any() for place in range(8))
    still = ImagesAndMasks(images, rows, processor)
    assert (still[0][0] == still.images[0]).all()

    mask = disc(64, 64, np.random.default_rng(1)) & (np.mgrid[:64, :64][0] > 24)  # not round: turning shows
    image = mask.astype(np.uint8) * 255
    moved = 0
    for seed in range(200):
        new_image, new_mask = turned(image, mask, np.random.default_rng(seed))
        assert new_mask.dtype == bool and new_image.dtype == np.uint8
        assert dice(mask_counts([new_image > 127], [new_mask]))[0] > 0.97
        moved += (new_image != image).any()
    assert 80 <= moved <= 120


def test_each_epoch_turns_its_images_anew(encoder, images, monkeypatch):
    seen, turn = [], ImagesAndMasks.__getitem__
    monkeypatch.setattr(
        ImagesAndMasks,
        "__getitem__",
        lambda radiographs, place: seen.append((radiographs.seed, radiographs.epoch)) or turn(radiographs, place),
    )
    train_segmenter(encoder, images, images.rows("train")[:8], 5, replace(QUICK, epochs=3, batch_size=4, augment=True))
    assert [epoch for seed, epoch in seen if seed == 5] == [0] * 8 + [1] * 8 + [2] * 8
    assert [seed for seed, _ in seen].count(None) == 3 * 8  # radiographs of the validation split are never turned


def test_the_best_decoder_is_kept_and_patience_ends():
    layer = nn.Linear(1, 1)
    best, control = LowestLoss(lambda: decoder_state(layer), patience=2), TrainerControl()
    for epoch, loss in enumerate([3.0, 1.0, 2.0, 1.0]):
        assert not control.should_training_stop
        layer.weight.data.fill_(epoch)
        best.on_evaluate(None, None, control, {"eval_loss": loss})
    assert control.should_training_stop and best.losses == [3.0, 1.0, 2.0, 1.0]
    assert best.state["weight"].item() == 1
    with pytest.raises(ValueError, match="loss is nan after epoch 5"):
        best.on_evaluate(None, None, control, {"eval_loss": float("nan")})


def test_what_cannot_be_trained_on_is_named(encoder, images):
    rows = images.rows("train")
    with pytest.raises(ValueError, match="all 1 training masks are empty .image image5"):
        train_segmenter(encoder, images, rows[5:6], 0, QUICK)
    cut = replace(images, mask=lambda row: images.mask(row)[:-1] if row == 3 else images.mask(row))
    with pytest.raises(ValueError, match="discs: image image3 has 36 x 48 pixels, its mask 36 x 47"):
        train_segmenter(encoder, cut, rows, 0, QUICK)
    line = io.BytesIO()
    Image.new("L", (40, 1)).save(line, "PNG")
    thin = replace(images, encoded=lambda row: line.getvalue() if row == 2 else images.encoded(row))
    with pytest.raises(ValueError, match="discs: image image2: an image of 1 x 40 pixels"):
        train_segmenter(encoder, thin, rows, 0, QUICK)
    with pytest.raises(ValueError, match="discs has boxes and no masks"):
        train_segmenter(encoder, replace(images, mask=None), rows, 0, QUICK)


def test_a_training_shows_one_bar_and_no_numbers(encoder, images, capfd):
    train_segmenter(encoder, images, images.rows("train")[:8], 5, replace(QUICK, epochs=1))
    out, err = capfd.readouterr()
    assert "resnet, 8 images, seed 5: 100%" in err
    assert out == "" and "loss" not in err
