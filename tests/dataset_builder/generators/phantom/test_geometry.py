"""Streams, pose, warp and projection, against what can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dataset_builder.generators.phantom.atlas import load_atlas
from dataset_builder.generators.phantom.geometry import (
    STREAMS,
    Pose,
    Warp,
    image_centre,
    project,
    sample_pose,
    sample_warp,
    sampling_grid,
    stream,
    to_image,
)
from dataset_builder.generators.phantom.patient import Patient

STILL = Warp(
    heart=0.2, inflation=0.0, lift=0.0, narrowing=0.0, girth=1.0, slope=0.0, taper=0.0, elastic=torch.zeros(2, 6, 6, 6)
)  # 0.2 undoes the slimming of the heart across
STRAIGHT = Pose(view="PA", sid=1830.0, gap=30.0, field=360.0)


@pytest.fixture(scope="module")
def atlas():
    return load_atlas()


def test_streams_repeat_and_are_independent():
    for name in STREAMS:
        assert np.array_equal(stream(7, name).random(8), stream(7, name).random(8))
    draws = [tuple(stream(seed, name).random(4)) for seed in (0, 1, 2**40) for name in STREAMS]
    assert len(set(draws)) == len(draws)
    with pytest.raises(ValueError, match="'colour'"):
        stream(0, "colour")


def test_view_is_obeyed_and_shifts_no_other_draw():
    for seed in range(20):
        pa, ap, free = (sample_pose(stream(seed, "pose"), view) for view in ("PA", "AP", None))
        assert (pa.view, ap.view) == ("PA", "AP")
        assert pa.sid > ap.sid
        assert (pa.field, pa.roll, pa.scale_x) == (ap.field, ap.roll, ap.scale_x)
        assert free == (pa if free.view == "PA" else ap)
    views = [sample_pose(stream(seed, "pose")).view for seed in range(300)]
    assert 0.25 < views.count("AP") / 300 < 0.45
    with pytest.raises(ValueError, match="'lateral'"):
        sample_pose(stream(0, "pose"), "lateral")


def test_heart_and_breath_replace_their_draws_alone():
    pose = sample_pose(stream(3, "pose"))
    drawn = sample_warp(stream(3, "warp"), pose)
    given = sample_warp(stream(3, "warp"), pose, heart=0.5, inflation=46.0)
    assert (given.heart, given.inflation) == (0.5, 46.0)
    assert torch.equal(drawn.elastic, given.elastic)
    assert replace(given, heart=drawn.heart, inflation=drawn.inflation, elastic=drawn.elastic) == drawn


def _block(atlas, x, y, z):
    inside = [(axis - centre).abs() <= half for axis, (centre, half) in ((atlas.y, y), (atlas.z, z), (atlas.x, x))]
    return (inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None]).float()


def test_line_integral_of_a_block_is_its_depth(atlas):
    x0, z0 = image_centre(atlas)
    block = _block(atlas, (x0, 60), (0, 40), (z0, 60))
    slabs = int((block.sum((1, 2)) > 0).sum())
    image = project(torch.stack([block, 2 * block]), sampling_grid(atlas, STRAIGHT, STILL, 64), atlas.spacing)
    assert image.shape == (2, 64, 64)
    assert abs(float(image[0, 32, 32]) - slabs * atlas.spacing[0]) < 1e-2
    assert torch.allclose(image[1], 2 * image[0])
    assert image[0, 2, 2] == 0


@pytest.mark.parametrize("view, sid", [("PA", 1830.0), ("AP", 1100.0)])
def test_cone_beam_magnifies_what_lies_far_from_the_image(atlas, view, sid):
    """A thin sheet at depth y is magnified by (SID - mid-body) / (SID - its distance from the image)."""
    x0, z0 = image_centre(atlas)
    pose = replace(STRAIGHT, view=view, sid=sid)
    grid = sampling_grid(atlas, pose, STILL, 256)
    for slab in (8, 40):
        distance = (atlas.y[slab] - atlas.y[0]) if view == "PA" else (atlas.y[-1] - atlas.y[slab])
        expected = (sid - 30 - (atlas.y[-1] - atlas.y[0]) / 2) / (sid - 30 - distance)
        points = to_image([[x0 - 60, atlas.y[slab], z0], [x0 + 60, atlas.y[slab], z0]], atlas, grid)
        seen = (points[1, 0] - points[0, 0]) * pose.field / 256
        assert abs(seen / 120 - float(expected)) < 0.004
    # the heart lies in front: larger on the AP image
    assert grid.shape == (48, 256, 256, 2)


def test_heart_looks_larger_on_ap(atlas):
    widths = []
    for view, sid in (("PA", 1830.0), ("AP", 1100.0)):
        grid = sampling_grid(atlas, replace(STRAIGHT, view=view, sid=sid), STILL, 256)
        heart = project(atlas.share("heart")[None], grid, atlas.spacing)[0]
        widths.append(int((heart.amax(0) > 15).sum()))
    assert widths[1] > 1.04 * widths[0]


def test_points_land_where_the_warped_volume_shows_them(atlas):
    for seed in range(4):
        pose = sample_pose(stream(seed, "pose"))
        grid = sampling_grid(atlas, pose, sample_warp(stream(seed, "warp"), pose), 128)
        for name in ("carina", "hilum_left", "dome_right"):
            x, y, z = atlas.landmarks[name]
            ball = _block(atlas, (x, 5), (y, 5), (z, 5))
            image = project(ball[None], grid, atlas.spacing)[0]
            rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
            centre = [float((image * axis).sum() / image.sum()) for axis in (columns, rows)]
            assert np.abs(to_image([[x, y, z]], atlas, grid)[0] - centre).max() < 2.0, (seed, name)


def test_breath_lowers_the_dome_and_a_large_heart_factor_widens_the_heart(atlas):
    def height_and_width(**change):
        grid = sampling_grid(atlas, STRAIGHT, replace(STILL, **change), 128)
        dome = to_image([atlas.landmarks["dome_right"]], atlas, grid)[0, 1]
        heart = project(atlas.share("heart")[None], grid, atlas.spacing)[0]
        return dome, int((heart.amax(0) > 15).sum())

    dome, width = height_and_width()
    assert height_and_width(inflation=30.0)[0] > dome + 5
    assert height_and_width(heart=0.6)[1] > width + 3
    assert height_and_width(heart=-0.1)[1] < width


@pytest.mark.parametrize("seed", range(6))
def test_warp_does_not_fold(atlas, seed):
    pose = sample_pose(stream(seed, "pose"))
    grid = sampling_grid(atlas, pose, sample_warp(stream(seed, "warp"), pose), 64)
    assert (grid[:, :, 1:, 0] > grid[:, :, :-1, 0]).float().mean() > 0.999
    assert (grid[:, 1:, :, 1] > grid[:, :-1, :, 1]).float().mean() > 0.999


def test_patient_repeats_and_edits_change_only_what_they_cover(atlas):
    first, again = Patient(atlas, 11, image_size=96), Patient(atlas, 11, image_size=96)
    q = first.line_integral()
    assert torch.equal(q, again.line_integral())
    assert not torch.equal(q, Patient(atlas, 12, image_size=96).line_integral())
    before = first.hu.clone()
    x, y, z = atlas.landmarks["hilum_right"]
    block = _block(atlas, (x - 30, 12), (y, 20), (z + 10, 12))
    edited = first.hu + block * (40 - first.hu)
    covered = first.project([block])[0] > 0
    change = (first.line_integral(edited) - q).abs()
    assert change[~covered].max() < 1e-5 and change[covered].max() > 0.1
    assert torch.equal(first.hu, before)


def test_vessels_show_in_aerated_lung_only(atlas):
    patient = Patient(atlas, 5, image_size=96)
    none = patient.line_integral(aerated=torch.zeros_like(patient.hu))
    with_vessels = patient.line_integral()
    lungs = patient.project([atlas.share("lung_")])[0] > 5
    assert (with_vessels - none)[lungs].mean() > 0.0005 and (with_vessels - none)[lungs].max() > 0.01
    assert (with_vessels - none)[~lungs].abs().max() < 0.01
    assert torch.allclose(Patient(atlas, 5, image_size=96, vessels=0.0).line_integral(), none, atol=1e-5)
