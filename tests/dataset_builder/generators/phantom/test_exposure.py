"""The developed image: repeatable, fitted without findings, and looking the way a chest radiograph does."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dataset_builder.generators.phantom.atlas import load_atlas
from dataset_builder.generators.phantom.exposure import GREYS_FILE, blur, fit_exposure
from dataset_builder.generators.phantom.geometry import Pose, stream
from dataset_builder.generators.phantom.marks import _texts, draw_marks
from dataset_builder.generators.phantom.patient import Patient
from scripts import greys as build_greys

SEEDS = range(20, 26)
SIZE = 128


@pytest.fixture(scope="module")
def images():
    atlas = load_atlas()
    out = []
    for seed in SEEDS:
        patient = Patient(atlas, seed, image_size=SIZE)
        q = patient.line_integral()
        look = fit_exposure(q, seed, patient.pose)
        out.append((patient, q, look, look.develop(q)))
    return out


def test_image_repeats_by_seed_and_differs_between_seeds(images):
    for seed, (patient, q, look, image) in zip(SEEDS, images, strict=True):
        assert image.shape == (SIZE, SIZE) and image.dtype == np.uint8
        assert np.array_equal(image, fit_exposure(q, seed, patient.pose).develop(q))
        assert not np.array_equal(image, fit_exposure(q, seed + 1, patient.pose).develop(q))
        assert not np.array_equal(image, look.develop(q, noise=False))


def test_lungs_are_darker_than_heart_and_abdomen(images):
    for seed, (patient, _, _, image) in zip(SEEDS, images, strict=True):
        lungs, heart, liver = patient.project([patient.atlas.share(name) for name in ("lung_", "heart", "liver")])
        inner = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        inner[10:-10, 10:-10] = True  # inside of edges and marks
        grey = [np.median(image[(part & inner).numpy()]) for part in ((lungs > 120), (heart > 60), (liver > 100))]
        assert grey[0] + 25 < grey[1], (seed, grey)
        assert grey[0] + 40 < grey[2], (seed, grey)


def test_patients_left_is_on_the_viewers_right(images):
    for patient, _, _, image in images:
        apex, carina = patient.to_image([patient.atlas.landmarks["heart_apex"], patient.atlas.landmarks["carina"]])
        assert apex[0] > carina[0] + 0.08 * SIZE
        # below the carina the heart makes the viewer's right of the midline brighter than its left
        row, middle, reach = int(apex[1]) - 6, int(carina[0]), int(0.16 * SIZE)
        assert image[row, middle : middle + reach].mean() > image[row, middle - reach : middle].mean()


def test_stomach_gas_lies_on_the_viewers_right(images):
    seen = 0
    for patient, _, _, _ in images:
        gas = (patient.hu < -500) & (patient.atlas.volume > -100)
        if gas.any():
            seen += 1
            columns = gas.any(0).any(0)
            assert float(patient.atlas.x[columns].mean()) > patient.atlas.landmarks["carina"][0]
    assert seen


def test_a_finding_changes_the_image_where_it_lies(images):
    for patient, q, look, image in images:
        x, y = patient.to_image([patient.atlas.landmarks["hilum_right"]])[0].astype(int)
        opacity = torch.zeros(SIZE, SIZE)
        opacity[y : y + 12, x - 16 : x - 4] = 0.5
        change = look.develop(q + opacity).astype(int) - image
        inside = opacity.numpy() > 0
        far = blur(opacity, 6).numpy() < 1e-3
        assert change[inside].mean() > 15
        assert np.abs(change[far]).mean() < 2.5


def test_grey_levels_follow_real_images(images):
    mean = np.mean([np.quantile(image, [0.25, 0.5, 0.75, 0.95]) for *_, image in images], axis=0)
    assert np.abs(mean - [85, 136, 176, 211]).max() < 40  # of 120 NIH images


def test_blur_keeps_flat_images_flat_and_spreads_points():
    flat = torch.full((40, 40), 3.0)
    assert torch.allclose(blur(flat, 5.0), flat, atol=1e-5)
    point = torch.zeros(41, 41)
    point[20, 20] = 1
    spread = blur(point, 3.0)
    offset = torch.arange(41.0) - 20
    assert abs(float((spread.sum(0) * offset**2).sum() / spread.sum()) - 9) < 0.2
    assert torch.allclose(blur(point, 0.0), point)


def test_text_agrees_with_the_pose():
    for seed in range(200):
        for view, upright in (("PA", True), ("AP", True), ("AP", False)):
            pose = Pose(view=view, sid=1100.0, gap=30.0, upright=upright)
            for text, place, *_ in _texts(pose, iter(stream(seed, "film").random(64))):
                if text in ("AP", "PORTABLE", "AP PORTABLE"):
                    assert view == "AP"
                elif text == "SUPINE":
                    assert not upright
                elif text == "ERECT":
                    assert upright
                else:
                    assert (text, place[0] > 0.5) in (("L", True), ("R", False))


def test_marks_never_reach_the_middle():
    grey = np.full((200, 200), 100.0)
    for seed in range(40):
        marked = draw_marks(grey, Pose(view="AP", sid=1100.0, gap=30.0), stream(seed, "film"))
        assert np.array_equal(marked[60:180, 30:170], grey[60:180, 30:170])


def test_grey_table_is_numbers_of_nih_images():
    table = json.loads(GREYS_FILE.read_text())
    assert "NIH" in table["source"] and table["films"] > 400
    assert len(table["mean"]) == build_greys.KNOTS and np.all(np.diff(table["mean"]) > 0)
    assert np.array(table["components"]).shape == (build_greys.COMPONENTS, build_greys.KNOTS)


def test_grey_table_can_be_made_again(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["file,view"]
    for index in range(5):
        image = np.clip(rng.normal(120 + 8 * index, 40, size=(300, 300)), 26, 251)
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,PA")
    (tmp_path / "images.csv").write_text("\n".join(lines))
    argv = ["--csv", str(tmp_path / "images.csv"), "--out", str(tmp_path / "greys.json")]
    assert build_greys.main(argv) == 0
    table = json.loads((tmp_path / "greys.json").read_text())
    assert table["variance_explained"] > 0.9
