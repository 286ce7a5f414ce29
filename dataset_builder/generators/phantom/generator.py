"""The phantom: renders a chest radiograph of one CT's anatomy to match a report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dataset_builder.findings import ABSENT, Finding, chexpert_labels
from dataset_builder.generators.phantom.atlas import detail_for, load_atlas
from dataset_builder.generators.phantom.cavity import cavity_of
from dataset_builder.generators.phantom.exposure import Exposure, fit_exposure
from dataset_builder.generators.phantom.geometry import VIEWS
from dataset_builder.generators.phantom.heart import DEPTH, ENLARGED, cardiothoracic_ratio, heart_depth, solve_heart
from dataset_builder.generators.phantom.layer import DEVICES, draw_layer, image_locator
from dataset_builder.generators.phantom.occlusion import Drawn, covered
from dataset_builder.generators.phantom.patient import Patient
from dataset_builder.generators.phantom.pleura import between
from dataset_builder.generators.phantom.scene import Drawing, normal_extent, plan, statement
from dataset_builder.generators.radiograph import Radiograph
from dataset_builder.reports.labeler import read_findings
from dataset_builder.reports.record import ReportRecord
from medsyn.errors import UserError

RENDERER = 1  # raised whenever equal settings, report and seed give other pixels than before
LABELS = 2  # raised whenever they give other masks, boxes, labels or occult findings; 1 missed what is drawn over
VISIBLE = 8.0  # mean grey levels that a finding must change in its mask
VISIBLE_LINE = 6.0  # the same for a pneumothorax, which the eye finds by the line of the pleura
SMALLEST, LARGEST = 64, 2048  # pixels
EMPHYSEMA_BREATH = {"mild": (34.0, 39.0), "moderate": (39.0, 44.0), "severe": (44.0, 48.0)}  # mm of inflation


@dataclass
class _Shown:
    """A drawing with its mask, `(height, width)` bool, and its box; no mask where it cannot be seen."""

    drawing: Drawing
    mask: np.ndarray | None = None
    box: tuple[float, float, float, float] | None = None


class PhantomGenerator:
    """Renders chest radiographs with exact masks from a CT's anatomy, on the CPU, without weights.

    An image depends on its scene, its seed, the view and `settings()` alone: not on the order of findings or images,
    nor on the process. Equal seeds give the same patient in the same pose and exposure; only the findings differ.

    Args:
        image_size (`int`, *optional*, defaults to 256): Pixels a side, 64 to 2048.
        atlas (`str` or `Path`, *optional*): An atlas file made by `scripts.atlas`; the one that ships by default.

    Raises:
        UserError: `image_size` is out of range, or the atlas is damaged.
        FileNotFoundError: There is no such atlas.

    Example:

        >>> from dataset_builder.findings import Finding
        >>> effusion = Finding("pleural effusion", side="left", severity="moderate")
        >>> radiograph = PhantomGenerator().render([effusion], seed=7)
        >>> radiograph.image.shape, radiograph.labels["Pleural Effusion"]
        ((256, 256), 1)
    """

    name = "phantom"
    batch_size = 1
    localizes = True

    def __init__(self, image_size: int = 256, atlas: str | Path | None = None):
        if not isinstance(image_size, int) or not SMALLEST <= image_size <= LARGEST:
            raise UserError(f"image_size {image_size!r} is not a whole number from {SMALLEST} to {LARGEST}")
        self.image_size = image_size
        self.atlas = load_atlas(atlas, detail=detail_for(image_size))

    def settings(self) -> dict:
        """All that images and their labels depend on beside scene, view and seed."""
        return {
            "generator": self.name,
            "renderer": RENDERER,
            "labels": LABELS,
            "image_size": self.image_size,
            "atlas": self.atlas.fingerprint,
            "visible_grey_change": [VISIBLE, VISIBLE_LINE],
        }

    def overlong(self, conditions: Sequence[str]) -> int:
        return 0  # texts are read by rules, to their end

    def condition(self, record: ReportRecord) -> str:
        """The scene and, where the record fixes it, the view, as JSON; the order of the findings does not matter."""
        scene = sorted({statement(finding) for finding in scene_of(record)})
        return json.dumps({"scene": [json.loads(text) for text in scene], "view": record.view}, sort_keys=True)

    def __call__(self, records: Sequence[ReportRecord], seeds: Sequence[int]) -> list[Radiograph]:
        return [self.render(scene_of(record), seed, record.view) for record, seed in zip(records, seeds, strict=True)]

    def counterfactual(
        self, scene: Sequence[Finding], seed: int, view: str | None = None
    ) -> tuple[Radiograph, Radiograph]:
        """The same patient in the same image with the scene's findings and without them."""
        absent = [finding for finding in _checked(scene) if finding.certainty == ABSENT]
        return self.render(scene, seed, view), self.render(absent, seed, view)

    def render(self, scene: Sequence[Finding], seed: int, view: str | None = None) -> Radiograph:
        """Draws one radiograph.

        Args:
            scene (`Sequence[Finding]`): What the report says. Absent findings are not drawn, uncertain ones are
                drawn mild; a side, zone or severity that is not stated is drawn from the seed.
            seed (`int`): Of the patient, the pose and the exposure.
            view (`str`, *optional*): `PA` or `AP`; drawn from the seed where `None`.

        Returns:
            `Radiograph`: The image, with a mask and a box for every finding that can be seen (both sides apart), and
            labels of what can be seen. Findings that change the image by less than 8 grey levels in their mask (6 for
            a pneumothorax), or that other findings cover, are in `occult`, and so is a fracture, which is not drawn.
            Emphysema is a state of the whole image and has neither mask nor box.

        Raises:
            UserError: The view is neither `PA` nor `AP`, or an entry of the scene is not a `Finding`.
        """
        if view is not None and view not in VIEWS:
            raise UserError(f"view {view!r} is not 'PA', 'AP' or None")
        scene = _checked(scene)
        drawings, _ = plan(scene, seed)
        with one_thread():
            return self._render(scene, drawings, seed, view)

    def _render(self, scene, drawings: list[Drawing], seed: int, view) -> Radiograph:
        normal_heart = solve_heart(self.atlas, seed, view, None, normal_extent(seed))
        normal = Patient(self.atlas, seed, view, self.image_size, heart=normal_heart)
        attenuation = normal.line_integral()
        exposure = fit_exposure(attenuation, seed, normal.pose)
        patient = normal
        reshaped = [drawing for drawing in drawings if drawing.finding.kind in ("cardiomegaly", "emphysema")]
        if reshaped:
            patient = self._reshape(reshaped, seed, view, normal_heart)
            attenuation = patient.line_integral()
        image, shown = self._draw(drawings, patient, exposure, attenuation)

        visible = {entry.drawing.asked for entry in shown if entry.mask is not None}
        visible |= {drawing.asked for drawing in drawings if drawing.finding.kind == "emphysema"}
        asked = list(dict.fromkeys(finding for finding in scene if finding.certainty != ABSENT))
        occult = [finding for finding in asked if finding not in visible]
        pathology = [finding for finding in asked if finding.kind not in DEVICES]
        entries = [entry for entry in shown if entry.mask is not None]
        return Radiograph(
            image=image,
            view=patient.pose.view,
            labels=chexpert_labels([finding for finding in scene if finding not in occult], normal=not pathology),
            masks=[(entry.drawing.finding, entry.mask) for entry in entries],
            boxes=[(entry.drawing.finding, entry.box) for entry in entries],
            occult=occult,
        )

    def _reshape(self, drawings: list[Drawing], seed: int, view: str | None, normal_heart: float) -> Patient:
        """The patient whose heart or breath a finding has changed."""
        inflation, vessels, heart = None, 1.0, normal_heart
        for drawing in drawings:
            if drawing.finding.kind == "emphysema":
                inflation = between(EMPHYSEMA_BREATH[drawing.finding.severity], drawing.extent)
                vessels = 0.6
        for drawing in drawings:
            if drawing.finding.kind == "cardiomegaly":
                heart = solve_heart(self.atlas, seed, view, drawing.finding.severity, drawing.extent, inflation)
        return Patient(self.atlas, seed, view, self.image_size, heart=heart, inflation=inflation, vessels=vessels)

    def _draw(
        self, drawings: list[Drawing], patient: Patient, exposure: Exposure, attenuation: torch.Tensor
    ) -> tuple[np.ndarray, list[_Shown]]:
        if not drawings:
            return exposure.develop(attenuation), []
        hu, replaced = patient.hu.clone(), torch.zeros_like(patient.hu)
        devices = torch.zeros_like(attenuation)
        grey = exposure.develop(attenuation, noise=False).astype(np.float32)
        shown, drawn, hidden = [], [], []
        for drawing in drawings:
            if drawing.finding.kind == "cardiomegaly":
                shown.append(self._heart(drawing, patient))
                continue
            visible = VISIBLE_LINE if drawing.finding.kind == "pneumothorax" else VISIBLE
            for extent in (drawing.extent, (1 + drawing.extent) / 2, 1.0):
                layer = draw_layer(drawing, extent, patient, hu)
                after = exposure.develop(attenuation + layer.nepers, noise=False).astype(np.float32)
                change = layer.change(grey, after)
                if change >= visible or drawing.finding.kind in (*DEVICES, "emphysema"):
                    break
            attenuation, grey = attenuation + layer.nepers, after
            if layer.box is None:
                devices += layer.nepers
            else:
                hu[layer.box] = torch.from_numpy(layer.hu)
                if drawing.finding.kind != "emphysema":
                    replaced[layer.box] = torch.maximum(replaced[layer.box], torch.from_numpy(layer.share))
            if drawing.finding.kind == "emphysema":
                continue
            drawn.append(Drawn(drawing, extent, layer, visible))
            box = self._box(layer.mask, drawing, patient)
            if change >= visible and box is not None:
                shown.append(_Shown(drawing, layer.mask, box))
            else:
                hidden.append(drawn[-1])
        under = [entry.drawing for entry in covered(drawn, hidden, patient, exposure, attenuation)]
        shown = [entry for entry in shown if entry.drawing not in under]
        aerated = self.atlas.share("lung_") * (1 - replaced)
        return exposure.develop(patient.line_integral(hu, aerated) + devices), shown

    def _heart(self, drawing: Drawing, patient: Patient) -> _Shown:
        heart, lungs = patient.project([self.atlas.share("heart"), self.atlas.share("lung_")]).numpy()
        heart = heart_depth(heart, patient.pose.field)
        if cardiothoracic_ratio(heart, lungs) <= ENLARGED[patient.pose.view]:
            return _Shown(drawing)
        mask = heart > DEPTH
        return _Shown(drawing, mask, bounds(mask))

    def _box(self, mask: np.ndarray, drawing: Drawing, patient: Patient) -> tuple[float, float, float, float] | None:
        """The bounds of a mask; of lung and pleura only what lies above the diaphragm, as readers draw it."""
        if drawing.finding.kind in DEVICES:
            return bounds(mask)
        cavity = cavity_of(self.atlas, drawing.finding.side)
        points = np.stack([cavity.x, np.full_like(cavity.x, cavity.y.mean()), -cavity.floor], axis=1)[::4]
        located = image_locator(patient)(points)  # (points, 2)
        order = np.argsort(located[:, 0])
        floor = np.interp(np.arange(self.image_size), located[order, 0], located[order, 1])  # row of each column
        return bounds(mask & (np.arange(self.image_size)[:, None] <= floor))


def scene_of(record: ReportRecord) -> tuple[Finding, ...]:
    """What a record's report says: known by construction, else read from its text."""
    if record.scene is not None:
        return record.scene
    return tuple(read_findings("\n\n".join(filter(None, (record.findings, record.impression)))))


def bounds(mask: np.ndarray) -> tuple[float, float, float, float] | None:
    """`x0, y0, x1, y1` in pixels of a mask's outer edges; `None` for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _checked(scene: Sequence[Finding]) -> tuple[Finding, ...]:
    for finding in scene:
        if not isinstance(finding, Finding):
            raise UserError(f"entry {finding!r} of a scene is not a Finding")
    return tuple(scene)


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread, which is faster here and makes sums come out bit-equal everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
