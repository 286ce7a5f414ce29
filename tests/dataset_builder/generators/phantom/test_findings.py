"""Findings on the image: where they lie, how large they are, how well their masks fit, and what they leave alone."""

import numpy as np
import pytest
import torch

from dataset_builder.findings import KINDS, Finding
from dataset_builder.generators.phantom import PhantomGenerator
from dataset_builder.generators.phantom.geometry import stream
from dataset_builder.generators.phantom.heart import ENLARGED, cardiothoracic_ratio, heart_depth
from dataset_builder.generators.phantom.layer import DEVICES, draw_layer
from dataset_builder.generators.phantom.patient import Patient
from dataset_builder.generators.phantom.scene import ORDER, plan

SEVERITIES = ("mild", "moderate", "severe")
SIDED = ("pleural effusion", "pneumothorax", "consolidation", "pneumonia", "opacity", "atelectasis", "nodule", "mass")


@pytest.fixture(scope="module")
def generator():
    return PhantomGenerator(image_size=128)


def overlap(layer, sign: int) -> float:
    """IoU of a layer's mask with where it changes the line integral by more than 12 % of its greatest change."""
    change = layer.nepers.numpy() * sign
    changed = change > 0.12 * change.max()
    return (changed & layer.mask).sum() / (changed | layer.mask).sum()


@pytest.mark.parametrize(
    ("kind", "severity", "least"),
    [
        ("pleural effusion", "moderate", 0.9),
        ("consolidation", "moderate", 0.9),
        ("nodule", "severe", 0.9),
        ("mass", "moderate", 0.9),
        ("pneumothorax", "severe", 0.6),
    ],
)
def test_masks_fit_the_change_of_attenuation(generator, kind, severity, least):
    for seed in range(4):
        patient = Patient(generator.atlas, seed, image_size=128)
        (drawing,), _ = plan([Finding(kind, side=("left", "right")[seed % 2], severity=severity)], seed)
        layer = draw_layer(drawing, drawing.extent, patient, patient.hu)
        # Air takes away; the lung that it compresses is denser, and not in the mask.
        assert overlap(layer, -1 if kind == "pneumothorax" else 1) > least, seed


@pytest.mark.parametrize("kind", SIDED)
def test_left_findings_lie_on_the_viewers_right(generator, kind):
    for side in ("left", "right"):
        image = generator.render([Finding(kind, side=side, severity="severe")], seed=5)
        ((finding, mask),) = image.masks
        centre = np.nonzero(mask)[1].mean() / mask.shape[1]
        assert finding.side == side
        assert centre > 0.5 if side == "left" else centre < 0.5


@pytest.mark.parametrize("kind", [*SIDED, "edema", "cardiomegaly"])
def test_masks_grow_with_severity(generator, kind):
    areas = []
    for severity in SEVERITIES:
        patient = Patient(generator.atlas, 3, image_size=128)
        if kind == "cardiomegaly":
            image = generator.render([Finding(kind, severity=severity)], seed=3)
            areas.append(image.masks[0][1].sum())
            continue
        drawings, _ = plan([Finding(kind, side="right", severity=severity)], 3)
        layer = draw_layer(drawings[0], drawings[0].extent, patient, patient.hu)
        areas.append(layer.depth.sum())  # mm of finding, where a mask's border would hide a denser core
    assert areas[0] < areas[1] < areas[2]


def test_zones_stack_from_top_to_bottom(generator):
    for kind in ("consolidation", "nodule"):
        rows = []
        for zone in ("upper", "middle", "lower"):
            image = generator.render([Finding(kind, side="right", zone=zone, severity="severe")], seed=8)
            rows.append(np.nonzero(image.masks[0][1])[0].mean())
        assert rows[0] < rows[1] < rows[2], kind


@pytest.mark.parametrize("kind", SIDED)
def test_a_finding_changes_the_image_near_its_mask_only(generator, kind):
    for seed in (1, 2):
        with_finding, without = generator.counterfactual([Finding(kind, severity="moderate")], seed)
        change = np.abs(with_finding.image.astype(int) - without.image.astype(int))
        if with_finding.masks:
            mask = with_finding.masks[0][1]
            assert change[mask].mean() > 2 * change[~mask].mean()
            assert change[~mask].mean() < 3


def test_bilateral_findings_have_a_mask_and_a_box_on_each_side(generator):
    image = generator.render([Finding("pleural effusion", side="bilateral", severity="moderate")], seed=2)
    assert sorted(finding.side for finding, _ in image.masks) == ["left", "right"]
    assert [finding.side for finding, _ in image.boxes] == [finding.side for finding, _ in image.masks]


def test_boxes_hold_the_mask_above_the_diaphragm(generator):
    scene = [
        Finding("pleural effusion", side="right", severity="moderate"),
        Finding("mass", side="left", zone="upper"),
    ]
    image = generator.render(scene, seed=4)
    masks = dict(image.masks)
    assert len(image.boxes) == 2
    for finding, (x0, y0, x1, y1) in image.boxes:
        rows, columns = np.nonzero(masks[finding])
        assert 0 <= x0 < x1 <= 128 and 0 <= y0 < y1 <= 128
        assert y0 == rows.min()
        if finding.kind == "mass":
            assert (x0, x1, y1) == (columns.min(), columns.max() + 1, rows.max() + 1)
        else:  # fluid reaches behind the liver; the box stops at the diaphragm
            assert y1 < rows.max() + 1


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_cardiomegaly_is_the_ratio_on_the_image(generator, monkeypatch, view):
    patients = []
    original = Patient.__init__

    def remember(self, *args, **kwargs):
        original(self, *args, **kwargs)
        patients.append(self)

    monkeypatch.setattr(Patient, "__init__", remember)
    for seed, severity in ((1, None), (2, None), (1, "mild"), (2, "mild"), (1, "severe"), (2, "severe")):
        image = generator.render([Finding("cardiomegaly", severity=severity)] if severity else [], seed, view)
        patient = patients[-1]
        heart, lungs = patient.project([generator.atlas.share("heart"), generator.atlas.share("lung_")]).numpy()
        ratio = cardiothoracic_ratio(heart_depth(heart, patient.pose.field), lungs)
        assert (ratio > ENLARGED[view]) == bool(severity), (seed, severity, ratio)
        assert image.labels["Cardiomegaly"] == (1 if severity else None)
        assert image.labels["Enlarged Cardiomediastinum"] == (1 if severity else None)


def test_nodules_are_round_on_the_image(generator):
    for seed in range(3):
        image = generator.render([Finding("mass", zone="middle", severity="moderate")], seed)
        x0, y0, x1, y1 = image.boxes[0][1]
        assert 0.7 < (x1 - x0) / (y1 - y0) < 1.45, seed


@pytest.mark.parametrize("kind", DEVICES)
def test_devices_add_to_the_image_and_set_the_label(kind):
    generator = PhantomGenerator(image_size=256)  # thin lines need the pixels
    seen = 0
    for seed in range(3):
        patient = Patient(generator.atlas, seed, image_size=256)
        (drawing,), _ = plan([Finding(kind)], seed)
        layer = draw_layer(drawing, drawing.extent, patient, patient.hu)
        assert layer.nepers.min() >= 0 and layer.mask.any()
        assert (layer.nepers.numpy() > 0)[layer.mask].all()
        image = generator.render([Finding(kind)], seed)
        seen += bool(image.masks)
        assert image.labels["Support Devices"] == (1 if image.masks else None)
        assert image.labels["No Finding"] == 1
    assert seen >= 2


def test_the_endotracheal_tube_ends_above_the_carina(generator):
    patient = Patient(generator.atlas, 6, image_size=128)
    (drawing,), _ = plan([Finding("endotracheal tube")], 6)
    layer = draw_layer(drawing, 0.5, patient, patient.hu)
    carina = patient.to_image(np.array([generator.atlas.landmarks["carina"]]))[0]
    rows, columns = np.nonzero(layer.mask)
    millimetres = (carina[1] - rows.max()) / 128 * patient.pose.field
    assert 12 < millimetres < 75
    assert abs(columns[rows == rows.max()].mean() - carina[0]) / 128 * patient.pose.field < 12


def test_every_kind_is_drawn_or_occult():
    generator = PhantomGenerator(image_size=64)
    for kind in KINDS:
        image = generator.render([Finding(kind, severity="moderate")], seed=1)
        asked = {finding.kind for finding, _ in image.masks} | {finding.kind for finding in image.occult}
        assert asked == ({kind} if kind != "emphysema" else set())
        assert (kind in ORDER) or image.occult


def test_emphysema_darkens_the_lungs(generator):
    emphysema, normal = generator.counterfactual([Finding("emphysema", severity="severe")], seed=9, view="PA")
    patient = Patient(generator.atlas, 9, "PA", 128)
    lungs = patient.project([generator.atlas.share("lung_")])[0].numpy() > 60
    assert emphysema.image[lungs].mean() < normal.image[lungs].mean() - 3
    assert emphysema.labels["No Finding"] is None and not emphysema.masks


def test_recipes_draw_nothing_from_the_other_streams(generator):
    normal = Patient(generator.atlas, 11, image_size=128)
    before = normal.hu.clone()
    drawings, _ = plan([Finding(kind) for kind in ORDER if kind not in ("cardiomegaly",)], 11)
    for drawing in drawings:
        draw_layer(drawing, 0.5, normal, normal.hu)
    assert torch.equal(normal.hu, before)  # and the patient's anatomy is not edited in place
    assert stream(11, "vessels").random() == stream(11, "vessels").random()
