"""PhantomGenerator as its callers see it: determinism, labels, occult findings, conditions, bad input."""

import hashlib
import json
import multiprocessing

import numpy as np
import pytest
import torch

from dataset_builder.findings import CHEXPERT_LABELS, Finding
from dataset_builder.generators.phantom import PhantomGenerator
from dataset_builder.generators.phantom import generator as module
from dataset_builder.reports.record import ReportRecord

SCENE = (
    Finding("pleural effusion", side="left", severity="moderate"),
    Finding("consolidation", side="right", zone="upper", severity="severe"),
    Finding("pneumothorax", certainty=0),
    Finding("pacemaker"),
)


@pytest.fixture(scope="module")
def generator():
    return PhantomGenerator(image_size=128)


def digest(image) -> str:
    parts = [image.image, *(mask for _, mask in image.masks), np.array([box for _, box in image.boxes])]
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def digest_elsewhere(seed: int) -> str:
    torch.set_num_threads(2)
    return digest(PhantomGenerator(image_size=128).render(SCENE, seed))


def record(**fields) -> ReportRecord:
    return ReportRecord(study_id="s1", subject_id="p1", **{"impression": "", **fields})


def test_an_image_has_its_size_view_and_labels(generator):
    image = generator.render(SCENE, seed=7, view="AP")
    assert image.image.shape == (128, 128) and image.image.dtype == np.uint8
    assert image.view == "AP"
    assert tuple(image.labels) == CHEXPERT_LABELS
    assert {finding.kind for finding, _ in image.masks} == {"pleural effusion", "consolidation", "pacemaker"}
    assert all(mask.shape == (128, 128) and mask.dtype == bool for _, mask in image.masks)
    present = {name for name, value in image.labels.items() if value == 1}
    assert present == {"Pleural Effusion", "Consolidation", "Lung Opacity", "Support Devices"}
    assert image.labels["Pneumothorax"] == 0 and image.labels["No Finding"] == 0 and image.labels["Edema"] is None
    assert image.image.std() > 20


def test_images_do_not_depend_on_order_instance_or_what_came_before(generator):
    first = digest(generator.render(SCENE, seed=7))
    generator.render([Finding("edema")], seed=8)
    assert digest(PhantomGenerator(image_size=128).render(SCENE[::-1], seed=7)) == first
    assert digest(generator.render(SCENE, seed=9)) != first


def test_images_are_bit_equal_in_another_process(generator):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(digest_elsewhere, (7,)) == digest(generator.render(SCENE, seed=7))


def test_rendering_changes_no_global_state(generator):
    torch.set_num_threads(2)
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.initial_seed(), np.random.get_state()[1].copy()
    state = torch.get_rng_state()
    try:
        generator.render(SCENE, seed=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(torch.get_rng_state(), state) and torch.initial_seed() == expected[0]
    assert (np.random.get_state()[1] == expected[1]).all()


def test_absent_findings_draw_nothing(generator):
    absent = [Finding("pleural effusion", side="left", certainty=0), Finding("cardiomegaly", certainty=0)]
    image, normal = generator.render(absent, seed=3), generator.render([], seed=3)
    assert (image.image == normal.image).all() and not image.masks and not image.occult
    assert (
        image.labels["Pleural Effusion"] == 0 and image.labels["Cardiomegaly"] == 0 and image.labels["No Finding"] == 1
    )
    assert normal.labels["No Finding"] == 1 and normal.labels["Pleural Effusion"] is None


def test_uncertain_findings_are_drawn_mild_and_labelled_uncertain(generator):
    doubtful = generator.render([Finding("consolidation", "right", "lower", "severe", certainty=-1)], seed=3)
    mild = generator.render([Finding("consolidation", "right", "lower", "mild")], seed=3)
    assert (doubtful.image == mild.image).all()
    assert doubtful.labels["Consolidation"] == -1 and doubtful.labels["Lung Opacity"] == -1
    assert doubtful.labels["No Finding"] is None


def test_counterfactuals_share_patient_pose_and_image(generator):
    image, without = generator.counterfactual(SCENE, seed=5)
    assert digest(image) == digest(generator.render(SCENE, seed=5))
    assert (without.image == generator.render([], seed=5).image).all()
    assert image.view == without.view and without.labels["No Finding"] == 1 and without.labels["Pneumothorax"] == 0
    unchanged = (image.image == without.image).mean()
    assert 0.05 < unchanged < 0.95


def test_what_cannot_be_seen_is_occult_and_unlabelled(generator, monkeypatch):
    scene = [Finding("nodule", side="left", severity="mild"), Finding("fracture"), Finding("opacity", side="right")]
    monkeypatch.setattr(module, "VISIBLE", 300.0)
    image = generator.render(scene, seed=3)
    assert image.occult == scene and not image.masks and not image.boxes
    assert image.labels == dict.fromkeys(CHEXPERT_LABELS)  # neither present, nor an image without findings
    monkeypatch.setattr(module, "VISIBLE", 0.0)
    image = generator.render(scene, seed=3)
    assert image.occult == [Finding("fracture")] and len(image.masks) == 2
    assert image.labels["Lung Lesion"] == 1 and image.labels["Fracture"] is None


def test_a_hidden_finding_is_enlarged_within_its_severity(generator, monkeypatch):
    tried = []
    original = module.draw_layer

    def remember(drawing, extent, patient, hu):
        tried.append(extent)
        return original(drawing, extent, patient, hu)

    monkeypatch.setattr(module, "draw_layer", remember)
    monkeypatch.setattr(module, "VISIBLE", 300.0)
    generator.render([Finding("mass", severity="mild")], seed=3)
    assert len(tried) == 3 and tried == sorted(tried) and tried[-1] == 1.0


def test_open_sides_follow_the_seed(generator):
    sides = {generator.render([Finding("mass", severity="severe")], seed).masks[0][0].side for seed in range(6)}
    assert sides == {"left", "right"}


def test_equal_conditions_are_equal_scenes_and_views(generator):
    scene = SCENE[:2]
    condition = generator.condition(record(scene=scene))
    moved = tuple(Finding(f.kind, f.side, f.zone, f.severity, f.certainty, evidence=(0, 4)) for f in scene[::-1])
    assert generator.condition(record(scene=moved, impression="Other words.")) == condition
    assert generator.condition(record(scene=scene, view="PA")) != condition
    assert generator.condition(record(scene=SCENE)) != condition
    assert json.loads(condition)["view"] is None


def test_records_without_a_scene_are_read(generator):
    text = "Large left pleural effusion. No pneumothorax."
    assert "pleural effusion" in generator.condition(record(impression=text))
    (image,) = generator([record(impression=text, view="PA")], [4])
    assert image.view == "PA" and image.labels["Pleural Effusion"] == 1 and image.labels["Pneumothorax"] == 0
    assert image.masks[0][0].side == "left"
    images = generator([record(scene=()), record(scene=SCENE)], [4, 5])
    assert [len(image.masks) for image in images] == [0, 3]
    assert digest(images[1]) == digest(generator.render(SCENE, 5))


def test_settings_are_json_and_name_the_atlas(generator):
    settings = generator.settings()
    assert json.loads(json.dumps(settings)) == settings
    assert settings["image_size"] == 128 and len(settings["atlas"]) == 64 and settings["renderer"] >= 1
    assert settings["labels"] >= 2  # images of version 1 bear labels of what others cover
    assert PhantomGenerator(image_size=64).settings() != settings
    assert generator.name == "phantom" and generator.batch_size == 1


def test_large_images_have_more_detail():
    image = PhantomGenerator(image_size=512).render(SCENE[:1], seed=2)
    assert image.image.shape == (512, 512) and image.masks[0][1].shape == (512, 512)
    assert max(image.boxes[0][1]) <= 512 and image.labels["Pleural Effusion"] == 1


@pytest.mark.parametrize("image_size", [63, 2049, 128.0, "128", True])
def test_bad_sizes_are_named(image_size):
    with pytest.raises(ValueError, match=str(image_size)):
        PhantomGenerator(image_size=image_size)


def test_bad_views_and_scenes_are_named(generator):
    with pytest.raises(ValueError, match="LATERAL"):
        generator.render([], 1, view="LATERAL")
    with pytest.raises(ValueError, match="pleural effusion"):
        generator.render(["pleural effusion"], 1)
    with pytest.raises(ValueError):
        generator([record(scene=())], [1, 2])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        PhantomGenerator(atlas="nowhere.npz")
