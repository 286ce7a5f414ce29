"""Findings that others cover: what the finished image does not show has no mask, box or label."""

import numpy as np
import pytest

from dataset_builder.findings import Finding
from dataset_builder.generators.phantom import PhantomGenerator, occlusion
from dataset_builder.generators.phantom import generator as module

COLLAPSE = Finding("atelectasis", side="right", zone="lower", severity="mild")
FLUID = Finding("pleural effusion", side="right", severity="moderate")


@pytest.fixture(scope="module")
def generator():
    return PhantomGenerator(image_size=128)


def kinds(image) -> list[str]:
    return [finding.kind for finding, _ in image.masks]


@pytest.mark.parametrize("seed", [0, 1])
def test_what_an_effusion_covers_is_occult(generator, seed):
    alone = generator.render([COLLAPSE], seed)
    fluid = generator.render([FLUID], seed)
    both = generator.render([COLLAPSE, FLUID], seed)
    ((_, mask),) = alone.masks
    difference = np.abs(both.image.astype(float) - fluid.image)[mask].mean()
    assert alone.labels["Atelectasis"] == 1 and difference < module.VISIBLE
    assert both.occult == [COLLAPSE] and both.labels["Atelectasis"] is None
    assert kinds(both) == ["pleural effusion"] and len(both.boxes) == 1
    assert (both.masks[0][1] == fluid.masks[0][1]).all()


def test_the_covered_side_alone_is_dropped(generator):
    collapse = Finding("atelectasis", side="bilateral", zone="lower", severity="mild")
    image = generator.render([collapse, FLUID], 0)
    assert [(finding.kind, finding.side) for finding, _ in image.masks] == [
        ("atelectasis", "left"),
        ("pleural effusion", "right"),
    ]
    assert not image.occult and image.labels["Atelectasis"] == 1


def test_findings_that_overlap_and_show_stay(generator):
    mass = Finding("mass", side="left", zone="lower", severity="severe")
    scene = [mass, Finding("pleural effusion", side="left", severity="mild"), Finding("pacemaker", side="left")]
    image = generator.render(scene, 2)
    assert set(kinds(image)) == {"mass", "pleural effusion", "pacemaker"} and not image.occult


def test_of_two_that_cover_each_other_one_is_seen(generator):
    dense = [Finding(kind, side="left", zone="lower", severity="severe") for kind in ("consolidation", "pneumonia")]
    image = generator.render([*dense, Finding("opacity", side="left", zone="lower", severity="severe")], 4)
    assert 1 <= len(image.masks) and len(image.masks) + len(image.occult) == 3
    assert image.labels["Lung Opacity"] == 1


def test_attenuation_without_a_finding_is_that_of_the_scene_without_it(generator, monkeypatch):
    seen = {}
    original = occlusion.covered

    def remember(drawn, hidden, patient, look, attenuation):
        seen["last"] = (drawn, patient, attenuation)
        return original(drawn, hidden, patient, look, attenuation)

    monkeypatch.setattr(module, "covered", remember)
    monkeypatch.setattr(module, "VISIBLE", 0.0)  # no finding is enlarged until it shows
    mass = Finding("mass", side="right", zone="lower", severity="severe")
    tube = Finding("endotracheal tube")
    generator.render([mass, FLUID, COLLAPSE, tube], 3)
    drawn, patient, attenuation = seen["last"]
    (entry,) = [entry for entry in drawn if entry.drawing.finding.kind == "mass"]
    without = occlusion._without([entry], drawn, patient, attenuation)
    generator.render([FLUID, COLLAPSE, tube], 3)
    expected = seen["last"][2]
    assert float((attenuation - expected).abs().max()) > 0.1
    assert float((without - expected).abs().max()) < 1e-3
