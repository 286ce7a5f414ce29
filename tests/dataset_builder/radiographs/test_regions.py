"""Run lengths, shapes and masks: against a naive reader, against areas that are known, and in other sizes."""

import numpy as np
import pytest
from PIL import Image

from dataset_builder.radiographs.adapters.object_cxr import parse_annotation
from dataset_builder.radiographs.regions import (
    BoxError,
    Ellipse,
    MaskFile,
    Polygon,
    Rectangle,
    RunLengths,
    box_in_image,
    draw_mask,
    resize_mask,
)
from dataset_builder.radiographs.run_lengths import decode_runs
from tests.fixtures.radiograph_trees import encode_runs


def naive(text: str, width: int, height: int) -> np.ndarray:
    """Pixel by pixel, down each column."""
    mask = np.zeros((height, width), dtype=bool)
    numbers, at = [int(field) for field in text.split()], 0
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        at += gap
        for _ in range(length):
            mask[at % height, at // height] = True
            at += 1
    return mask


def test_runs_go_down_columns_and_gaps_count_from_the_last_run():
    mask = decode_runs("1 2 3 1", 4, 3)
    assert mask.astype(int).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(20))
def test_runs_equal_the_naive_reader_and_survive_the_round_trip(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 30, 2)
    mask = rng.random((height, width)) < rng.choice([0.0, 0.1, 0.5, 0.95, 1.0])
    text = encode_runs(mask)
    assert np.array_equal(naive(text, width, height), mask)
    assert np.array_equal(decode_runs(text, width, height), mask)


def test_touching_runs_and_the_last_pixel():
    assert np.array_equal(decode_runs("0 2 0 3 0 1", 3, 2), np.ones((2, 3), dtype=bool))
    assert decode_runs("5 1", 3, 2)[1, 2] and not decode_runs("", 3, 2).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 7", "end at pixel 7 of an image of 3 x 2"),
        ("5 1 0 1", "end at pixel 7"),
        ("99999999999 1", "end at pixel"),
        ("9" * 30 + " 1", "end at pixel"),
        ("9223372036854775807 1", "end at pixel"),
        ("9000000000000000000 1 9000000000000000000 1", "end at pixel"),
        ("--5 1", "not pairs"),
        ("-1 2", "negative gap"),
        ("0 0", "without pixels"),
        ("0 1 2", "not pairs"),
        ("0 one", "not pairs"),
        ("1.5 2", "not pairs"),
    ],
)
def test_bad_runs_are_told(text, message):
    with pytest.raises(ValueError, match=message):
        decode_runs(text, 3, 2)


def test_a_rectangle_holds_the_pixels_whose_middle_it_holds():
    mask = draw_mask(Rectangle("a", (2, 1, 5, 3)), (8, 6), (8, 6))
    assert mask.sum() == 6 and mask[1:3, 2:5].all()
    assert draw_mask(Rectangle("a", (0, 0, 8, 6)), (8, 6), (8, 6)).all()
    assert not draw_mask(Rectangle("a", (2.6, 1, 3.4, 3)), (8, 6), (8, 6)).any()


@pytest.mark.parametrize("scale", [1, 0.5])
def test_shapes_have_their_area_and_stay_in_their_box(scale):
    original, stored = (400, 300), (int(400 * scale), int(300 * scale))
    diamond = Polygon("a", ((200, 50), (300, 150), (200, 250), (100, 150)))
    for shape, area in ((Ellipse("a", (100, 50, 300, 250)), np.pi * 100 * 100), (diamond, 2 * 100 * 100)):
        mask = draw_mask(shape, original, stored)
        assert mask.shape == stored[::-1]
        assert abs(mask.sum() / (area * scale**2) - 1) < 0.03
        (x0, y0, x1, y1), cut = box_in_image(shape, original, stored)
        assert (x0, y0, x1, y1) == tuple(value * scale for value in (100, 50, 300, 250)) and not cut
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert np.abs(np.subtract(found, (x0, y0, x1, y1))).max() <= 1


def test_an_ellipse_smaller_than_a_pixel_is_one():
    for corners in ((40, 30, 41, 33), (40, 30, 40, 30)):
        assert np.argwhere(draw_mask(Ellipse("a", corners), (400, 300), (40, 30))).tolist() == [[3, 4]]


def test_a_grid_scales_a_box_to_the_stored_image():
    box, _ = box_in_image(Rectangle("a", (0.25, 0.5, 0.75, 1.0), (1, 1)), (400, 200), (200, 100))
    assert box == (50, 50, 150, 100)
    box, _ = box_in_image(Rectangle("a", (512, 0, 1024, 512), (1024, 1024)), (300, 300), (300, 300))
    assert box == (150, 0, 300, 150)


@pytest.mark.parametrize("corners", [(-1, 0, 5, 5), (0, 0, 5, 11), (3, 3, 10.1, 5), (20, 20, 30, 30)])
def test_boxes_outside_the_image_are_errors_or_cut(corners):
    with pytest.raises(BoxError, match="is not inside the image of 10 x 10"):
        box_in_image(Rectangle("a", corners), (10, 10), (10, 10))
    box, cut = box_in_image(Rectangle("a", corners), (10, 10), (10, 10), fix=True)
    assert cut
    assert box is None if corners[0] == 20 else box == tuple(np.clip(corners, 0, 10))


@pytest.mark.parametrize("corners", [(1, 1, 1, 5), (1, 5, 4, 5), (6, 1, 2, 5)])
def test_boxes_without_area_are_errors_or_dropped(corners):
    with pytest.raises(BoxError, match="has no area"):
        box_in_image(Rectangle("a", corners), (10, 10), (10, 10))
    assert box_in_image(Rectangle("a", corners), (10, 10), (10, 10), fix=True) == (None, False)


def test_rounding_at_the_edge_is_no_error():
    assert box_in_image(Rectangle("a", (0.5, 0, 1.00001, 1), (1, 1)), (100, 100), (100, 100)) == (
        (50, 0, 100, 100),
        False,
    )


def test_masks_keep_their_area_in_another_size_and_small_ones_do_not_vanish():
    mask = np.zeros((100, 120), dtype=bool)
    mask[20:60, 30:90] = True
    small = resize_mask(mask, 60, 50)
    assert small.shape == (50, 60) and small[10:30, 15:45].all() and small.sum() == 600
    assert resize_mask(mask, 120, 100) is mask
    dot = np.zeros((100, 100), dtype=bool)
    dot[50, 50] = True
    assert np.argwhere(resize_mask(dot, 10, 10)).tolist() == [[5, 5]]
    assert not resize_mask(np.zeros((100, 100), dtype=bool), 10, 10).any()


def test_runs_of_several_strings_unite_and_scale():
    region = RunLengths("a", ("0 8", "8 8"), (8, 8))
    assert draw_mask(region, (4, 4), (4, 4)).tolist() == [[True, False, False, False]] * 4


def test_a_mask_file_has_the_images_size(tmp_path):
    pixels = np.zeros((6, 8), dtype=np.uint8)
    pixels[2:4, 4:8] = 1  # everything but black
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    region = MaskFile("lung", tmp_path / "mask.png")
    assert np.array_equal(draw_mask(region, (8, 6), (8, 6)), pixels > 0)
    assert draw_mask(region, (8, 6), (4, 3)).astype(int).tolist() == [[0] * 4, [0, 0, 1, 1], [0] * 4]
    with pytest.raises(ValueError, match="mask.png: the mask has 8 x 6 pixels, its image 6 x 8"):
        draw_mask(region, (6, 8), (6, 8))


def test_annotations_of_object_cxr():
    shapes = parse_annotation("0 30 20 10 5;1 1 2 3 4;2 0 0 9 0 9 9;", "here")
    assert shapes == (
        Rectangle("Foreign Object", (10, 5, 30, 20)),
        Ellipse("Foreign Object", (1, 2, 3, 4)),
        Polygon("Foreign Object", ((0, 0), (9, 0), (9, 9))),
    )
    assert parse_annotation("", "here") == ()


@pytest.mark.parametrize("text", ["3 1 2 3 4", "0 1 2 3", "2 1 2 3 4", "2 1 2 3 4 5 6 7", "0 a b c d", "0 1 2 3 nan"])
def test_bad_annotations_are_told(text):
    with pytest.raises(ValueError, match="train.csv, row 7"):
        parse_annotation(text, "train.csv, row 7")
