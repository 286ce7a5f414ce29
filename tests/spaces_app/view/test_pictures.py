import numpy as np
import pytest
from PIL import Image

from hub_medsyn.cards.overlay import OUTLINES
from hub_medsyn.inference.grounding import HeatMap
from spaces_app.guard.uploads import Upload
from spaces_app.view.pictures import HEAT, heat_colour, heat_overlay, image_picture, mask_overlay

GREY = Upload(np.full((100, 200), 100, np.uint8), "your image")
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def heat(values: np.ndarray) -> HeatMap:
    return HeatMap(values.astype(np.float32), values[:2, :2], "effusion")


def brightness(colour) -> float:
    """Relative luminance (WCAG 2.2) of 8-bit sRGB."""
    share = np.asarray(colour) / 255
    return float(np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ LUMINANCE)


def is_colour(pixels: np.ndarray, colour) -> np.ndarray:
    return (pixels == np.array(colour)).all(-1)


def test_an_image_lies_in_the_middle_of_a_black_square():
    picture = image_picture(GREY, 400)
    pixels = np.asarray(picture)
    assert (picture.mode, picture.size) == ("RGB", (400, 400))
    assert (pixels[100:300] == 100).all() and not pixels[:100].any() and not pixels[300:].any()
    tall = np.asarray(image_picture(Upload(GREY.pixels.T, "x"), 400))
    assert (tall[:, 100:300] == 100).all() and not tall[:, :100].any() and not tall[:, 300:].any()


def test_the_colours_of_heat_grow_brighter_in_even_steps():
    levels = [brightness(colour) for colour in heat_colour(np.linspace(0, 1, 50))]
    assert (np.diff(levels) > 0).all()
    assert levels[0] < 0.05 and levels[-1] > 0.85
    np.testing.assert_allclose(heat_colour(np.array([0.0, 1.0])), HEAT[[0, -1]])


def test_heat_is_clear_up_to_the_median_and_the_image_shows_through_where_it_is_hottest():
    stripes = Upload(np.tile(np.where(np.arange(200) // 10 % 2, 40, 200).astype(np.uint8), (100, 1)), "x")
    rising = np.tile(np.linspace(-0.5, 0.3, 200), (100, 1))
    bare = np.asarray(image_picture(stripes, 400)).astype(int)
    over = np.asarray(heat_overlay(stripes, heat(rising), 1.0, side=400)).astype(int)
    np.testing.assert_array_equal(over[100:300, :195], bare[100:300, :195])
    change = np.abs(over - bare).max(-1)[150]
    assert change[215] > 10 and change[390] > 50  # the deeper into the heat, the more of it
    dark, light = over[150, 350], over[150, 370]  # neighbours on the image's stripes
    assert (np.abs(bare[150, 350] - bare[150, 370]) > 100).all()
    assert abs(int(dark.sum()) - int(light.sum())) > 100


def test_where_is_the_heat():
    values = np.zeros((100, 200))
    values[20:40, 150:170] = 1
    over = np.asarray(heat_overlay(GREY, heat(values), 1.0, side=400)).astype(int)
    changed = (over - np.asarray(image_picture(GREY, 400)).astype(int)).any(-1)[:330]  # above the scale
    rows, columns = np.nonzero(changed)
    assert abs(rows.mean() - (100 + 60)) < 2 and abs(columns.mean() - 320) < 2


def test_opacity_of_nothing_leaves_the_image():
    rising = np.tile(np.linspace(0, 1, 200), (100, 1))
    over = np.asarray(heat_overlay(GREY, heat(rising), 0.0, side=400))
    np.testing.assert_array_equal(over[:330], np.asarray(image_picture(GREY, 400))[:330])


def test_a_map_of_one_value_is_clear():
    over = np.asarray(heat_overlay(GREY, heat(np.full((100, 200), 0.7)), 1.0, side=400))
    np.testing.assert_array_equal(over[:330], np.asarray(image_picture(GREY, 400))[:330])


def test_the_scale_tells_the_cosines():
    """Equal shapes with other cosines differ in the numbers alone."""
    rising = np.tile(np.linspace(0, 1, 200), (100, 1))
    one, other = (np.asarray(heat_overlay(GREY, heat(rising * k), side=512)).astype(int) for k in (0.5, 0.25))
    rows, columns = np.nonzero((one - other).any(-1))
    assert len(rows) > 20 and rows.min() > 450 and columns.max() < 300


def test_maps_of_another_size_and_opacities_out_of_range_are_errors():
    with pytest.raises(ValueError, match=r"\(10, 10\) is not one of an image of shape \(100, 200\)"):
        heat_overlay(GREY, heat(np.zeros((10, 10))))
    with pytest.raises(ValueError, match="opacity=1.5"):
        heat_overlay(GREY, heat(np.zeros((100, 200))), 1.5)
    with pytest.raises(ValueError, match=r"mask of nodule has shape \(3, 3\)"):
        mask_overlay(GREY, [("nodule", np.ones((3, 3), bool))])


def test_each_finding_is_outlined_in_its_colour_where_it_is_and_the_image_inside_stays():
    left, right = np.zeros((2, 100, 200), bool)
    left[40:80, 20:60], right[40:80, 140:180] = True, True
    pixels = np.asarray(mask_overlay(GREY, [("nodule", left), ("edema", right), ("nodule", right)], side=400))
    first, second = is_colour(pixels, OUTLINES[0]), is_colour(pixels, OUTLINES[1])
    assert first[180:262, 38:42].any() and first[259:262, 40:120].mean() > 0.3
    assert not second[:, :200].any()
    assert first[180:262, 278:282].any()  # the later mask of the same place
    assert (pixels[200:240, 60:100] == 100).all()  # inside
    blank = mask_overlay(GREY, [("nodule", np.zeros((100, 200), bool))], side=400)
    np.testing.assert_array_equal(np.asarray(blank), np.asarray(image_picture(GREY, 400)))


def test_a_mask_of_a_pixel_and_one_at_the_edge_are_outlined():
    dot = np.zeros((100, 200), bool)
    dot[50, 100] = True
    assert is_colour(np.asarray(mask_overlay(GREY, [("x", dot)], side=400)), OUTLINES[0])[195:210, 195:210].any()
    whole = is_colour(np.asarray(mask_overlay(GREY, [("x", np.ones((100, 200), bool))], side=400)), OUTLINES[0])
    assert whole[298:300].mean() > 0.9 and whole[150:250, 398:400].mean() > 0.9


def test_boxes_stand_at_their_corners_and_give_way_to_masks_of_their_name():
    box = ("nodule", (20.0, 40.0, 60.0, 80.0))
    drawn = is_colour(np.asarray(mask_overlay(GREY, boxes=[box], side=400)), OUTLINES[0])
    rows, columns = np.nonzero(drawn[180:, :])
    assert (columns.min(), columns.max(), rows.max() + 180) == (40, 119, 259)
    mask = np.zeros((100, 200), bool)
    mask[50:60, 150:160] = True
    both = is_colour(np.asarray(mask_overlay(GREY, [("nodule", mask)], [box], side=400)), OUTLINES[0])
    assert not both[200:260, 30:50].any()


def test_names_stay_inside_and_do_not_cover_each_other():
    corners = [(0.0, 0.0), (190.0, 0.0), (190.0, 90.0), (191.0, 91.0)]
    names = ["pleural effusion", "central venous catheter", "endotracheal tube", "enlarged cardiomediastinum"]
    boxes = [(name, (x, y, x + 8, y + 8)) for name, (x, y) in zip(names, corners, strict=True)]
    pixels = np.asarray(mask_overlay(GREY, boxes=boxes, side=512))
    for place in range(4):
        # A name that was cut off, or drawn over, would have fewer pixels than when it stands alone in the middle.
        alone = mask_overlay(GREY, boxes=[(names[place], (90.0, 50.0, 98.0, 58.0))], side=512)
        expected = is_colour(np.asarray(alone), OUTLINES[0]).sum()
        assert (
            is_colour(pixels, OUTLINES[place]).sum() > 0.7 * expected
        )  # boxes beside it may cover a line of its own box


@pytest.mark.parametrize("colour", OUTLINES)
def test_names_are_legible_on_their_dark_ground(colour):
    assert (brightness(colour) + 0.05) / 0.05 > 4.5  # WCAG AA


def test_markup_in_a_name_is_drawn_and_not_read():
    evil = "<script>alert(1)</script>\n&#0;\u202e"
    picture = mask_overlay(GREY, boxes=[(evil, (20.0, 40.0, 60.0, 80.0))], side=400)
    assert picture.size == (400, 400) and not picture.info


def test_an_image_of_any_shape_and_one_large_map_are_drawn():
    for shape in ((32, 128), (1024, 257), (1, 1)):
        one = Upload(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8), "x")
        assert heat_overlay(one, heat(np.random.default_rng(1).normal(size=shape)), side=256).size == (256, 256)
    assert isinstance(image_picture(GREY, 64), Image.Image)
