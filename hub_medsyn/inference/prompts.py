"""What to ask a model for each finding: wordings for and against it, class prompts, and the signs that explain it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass

from medsyn.errors import UserError


@dataclass(frozen=True)
class PromptPair:
    """What a report says of an image that shows a finding, and of one that does not.

    Args:
        positive (`tuple[str, ...]`): Wordings of its presence; the first is the plainest.
        negative (`tuple[str, ...]`): Wordings of its absence.

    Raises:
        UserError: If a side is no tuple, has no wording or a blank one, or a wording stands twice.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]

    def __post_init__(self):
        for side, wordings in (("positive", self.positive), ("negative", self.negative)):
            if not isinstance(wordings, tuple) or not wordings or not all(wording.strip() for wording in wordings):
                raise UserError(f"the {side} wordings {wordings!r} are not a tuple of one or more texts")
        wordings = self.positive + self.negative
        for wording in wordings:
            if wordings.count(wording) > 1:
                raise UserError(f"{wording!r} stands more than once among the wordings of one finding")


EFFUSION = PromptPair(
    ("pleural effusion", "small right pleural effusion", "moderate left pleural effusion", "bilateral effusions"),
    ("no pleural effusion", "no effusion", "the costophrenic angles are sharp"),
)
# The 14 labels of CheXpert, those of NIH ChestX-ray14 under NIH's names where they differ, and COVID-19.
FINDING_PROMPTS: dict[str, PromptPair] = {
    "No Finding": PromptPair(
        (
            "no acute cardiopulmonary abnormality",
            "normal chest",
            "the heart is normal in size and the lungs are clear",
        ),
        ("abnormal chest", "there is acute cardiopulmonary disease", "abnormal opacity in the lungs"),
    ),
    "Enlarged Cardiomediastinum": PromptPair(
        ("enlarged cardiomediastinal silhouette", "widened mediastinum", "the mediastinal contour is enlarged"),
        ("normal cardiomediastinal silhouette", "no mediastinal widening", "normal mediastinal contour"),
    ),
    "Cardiomegaly": PromptPair(
        ("cardiomegaly", "the heart is enlarged", "mild cardiomegaly", "enlarged cardiac silhouette"),
        ("no cardiomegaly", "heart size is normal", "normal cardiac silhouette"),
    ),
    "Lung Opacity": PromptPair(
        ("lung opacity", "opacity in the right lower lobe", "patchy airspace opacities", "left basilar opacity"),
        ("no lung opacity", "the lungs are clear", "no focal airspace disease"),
    ),
    "Lung Lesion": PromptPair(
        ("lung nodule", "lung mass", "nodule in the right upper lobe", "mass in the left lung"),
        ("no lung nodule", "no mass or nodule", "no suspicious pulmonary lesion"),
    ),
    "Edema": PromptPair(
        ("pulmonary edema", "interstitial edema", "pulmonary vascular congestion with edema", "mild pulmonary edema"),
        ("no pulmonary edema", "normal pulmonary vascularity", "no vascular congestion"),
    ),
    "Consolidation": PromptPair(
        ("consolidation", "focal consolidation in the left lower lobe", "right lower lobe airspace consolidation"),
        ("no consolidation", "no focal consolidation", "the lungs are clear"),
    ),
    "Pneumonia": PromptPair(
        (
            "pneumonia",
            "right lower lobe pneumonia",
            "pneumonia in the left lower lobe",
            "multifocal pneumonia",
        ),
        ("no pneumonia", "no evidence of pneumonia", "the lungs are clear"),
    ),
    "Atelectasis": PromptPair(
        (
            "atelectasis",
            "bibasilar atelectasis",
            "subsegmental atelectasis at the left base",
            "collapse of the left lower lobe",
        ),
        ("no atelectasis", "the lungs are well expanded", "the lungs are well expanded and clear"),
    ),
    "Pneumothorax": PromptPair(
        ("pneumothorax", "small right apical pneumothorax", "large left pneumothorax"),
        ("no pneumothorax", "no evidence of pneumothorax", "the pleural spaces are normal"),
    ),
    "Pleural Effusion": EFFUSION,
    "Pleural Other": PromptPair(
        ("pleural thickening", "pleural scarring", "calcified pleural plaques"),
        ("no pleural thickening", "no pleural abnormality", "normal pleura"),
    ),
    "Fracture": PromptPair(
        ("fracture", "rib fracture", "displaced left rib fractures", "compression fracture of the spine"),
        ("no fracture", "no acute bony abnormality", "the bones are intact"),
    ),
    "Support Devices": PromptPair(
        ("support devices", "central venous catheter in place", "endotracheal tube in place", "cardiac pacemaker"),
        ("no support devices", "no lines or tubes", "no catheter, tube or pacemaker"),
    ),
    "Effusion": EFFUSION,
    "Infiltration": PromptPair(
        ("infiltrate", "patchy infiltrate in the right lung", "bilateral interstitial infiltrates"),
        ("no infiltrate", "no focal infiltrate", "the lungs are clear"),
    ),
    "Mass": PromptPair(
        ("lung mass", "large mass in the right lung", "left hilar mass"),
        ("no lung mass", "no mass", "no suspicious mass in the lungs"),
    ),
    "Nodule": PromptPair(
        ("lung nodule", "small nodule in the left upper lobe", "multiple pulmonary nodules"),
        ("no lung nodule", "no pulmonary nodules", "no suspicious nodule"),
    ),
    "Emphysema": PromptPair(
        ("emphysema", "hyperinflated lungs with flat diaphragms", "chronic obstructive pulmonary disease"),
        ("no emphysema", "the lungs are normally inflated", "no hyperinflation"),
    ),
    "Fibrosis": PromptPair(
        ("pulmonary fibrosis", "chronic interstitial fibrosis", "reticular scarring at the lung bases"),
        ("no pulmonary fibrosis", "no scarring", "no interstitial lung disease"),
    ),
    "Pleural_Thickening": PromptPair(
        ("pleural thickening", "apical pleural thickening", "thickened pleura on the right"),
        ("no pleural thickening", "the pleura is not thickened", "normal pleura"),
    ),
    "Hernia": PromptPair(
        ("hiatal hernia", "large hiatal hernia behind the heart", "diaphragmatic hernia"),
        ("no hiatal hernia", "no hernia", "the diaphragm is normal"),
    ),
    "COVID-19": PromptPair(
        ("COVID-19 pneumonia", "bilateral peripheral opacities of COVID-19", "atypical viral pneumonia"),
        ("no evidence of COVID-19", "no viral pneumonia", "the lungs are clear"),
    ),
}

# What can be seen of a finding, as a radiologist would point it out.
EFFUSION_SIGNS = (
    "blunted costophrenic angle",
    "fluid meniscus along the chest wall",
    "veiled opacity over the lower lung",
    "fluid in the fissure",
)
DESCRIPTORS: dict[str, tuple[str, ...]] = {
    "No Finding": ("clear lungs", "normal heart size", "sharp costophrenic angles", "normal mediastinal contour"),
    "Enlarged Cardiomediastinum": (
        "wide upper mediastinum",
        "prominent aortic knob",
        "tortuous aorta",
        "enlarged heart shadow",
    ),
    "Cardiomegaly": (
        "heart wider than half of the chest",
        "prominent left heart border",
        "globular heart shape",
        "left ventricular prominence",
    ),
    "Lung Opacity": ("hazy opacity", "patchy airspace disease", "dense white area in the lung", "linear opacity"),
    "Lung Lesion": ("round opacity", "spiculated margin", "well defined nodule", "cavity with a thick wall"),
    "Edema": (
        "septal lines",
        "perihilar haze",
        "cephalization of the vessels",
        "indistinct pulmonary vessels",
        "peribronchial cuffing",
    ),
    "Consolidation": ("air bronchograms", "dense lobar opacity", "obscured diaphragm", "silhouette sign"),
    "Pneumonia": ("air bronchograms", "patchy airspace disease", "segmental opacity", "obscured heart border"),
    "Atelectasis": (
        "linear band at the lung base",
        "elevated hemidiaphragm",
        "shift of the mediastinum",
        "crowded vessels",
        "low lung volumes",
    ),
    "Pneumothorax": (
        "visible pleural line",
        "no lung markings at the apex",
        "deep costophrenic sulcus",
        "collapsed lung",
    ),
    "Pleural Effusion": EFFUSION_SIGNS,
    "Pleural Other": ("pleural plaque", "calcified pleura", "blunted angle without fluid", "apical cap"),
    "Fracture": (
        "break in the rib cortex",
        "displaced bone fragment",
        "callus of a healing rib",
        "loss of vertebral height",
    ),
    "Support Devices": (
        "tube in the trachea",
        "catheter tip in the superior vena cava",
        "tube tip in the stomach",
        "pacemaker leads",
        "sternotomy wires",
    ),
    "Effusion": EFFUSION_SIGNS,
    "Infiltration": ("hazy opacity", "patchy airspace disease", "increased interstitial markings"),
    "Mass": ("large round opacity", "irregular margin", "enlarged hilum", "opacity over three centimeters"),
    "Nodule": ("small round opacity", "well defined margin", "calcified granuloma", "opacity under three centimeters"),
    "Emphysema": (
        "flattened diaphragms",
        "hyperlucent lungs",
        "bullae",
        "large retrosternal air space",
        "narrow heart",
    ),
    "Fibrosis": ("reticular opacities", "honeycombing", "reduced lung volume", "traction bronchiectasis"),
    "Pleural_Thickening": ("apical cap", "band along the chest wall", "blunted angle without fluid"),
    "Hernia": ("air fluid level behind the heart", "retrocardiac mass", "stomach bubble above the diaphragm"),
    "COVID-19": ("peripheral hazy opacities", "ground glass in both lower lungs", "multifocal patchy opacities"),
}

LOBES = (
    "in the left upper lobe",
    "in the left lower lobe",
    "in the right upper lobe",
    "in the right middle lobe",
    "in the right lower lobe",
)
SIDES = ("on the left", "on the right", "on both sides")
LUNGS = ("in the left lung", "in the right lung", "in both lungs")
BASES = ("at the left base", "at the right base", "at both bases")
GRADES = ("", "mild", "moderate", "severe")
SIZES = ("", "small", "moderate", "large")
EFFUSION_TERMS = (SIZES, ("pleural effusion", "layering effusion", "loculated effusion"), SIDES)
# Severity, subtype and location of the class prompts; an empty word leaves its place out.
CLASS_TERMS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "No Finding": (("", "again"), ("normal heart size", "clear lungs", "no acute disease", "no focal opacity"), ("",)),
    "Enlarged Cardiomediastinum": (GRADES, ("mediastinal widening", "cardiomediastinal enlargement"), ("",)),
    "Cardiomegaly": (GRADES, ("cardiomegaly", "cardiac enlargement", "enlargement of the heart"), ("",)),
    "Lung Opacity": (GRADES, ("airspace opacity", "hazy opacity", "patchy opacity"), LOBES),
    "Lung Lesion": (SIZES, ("nodule", "mass", "pulmonary nodule"), LOBES),
    "Edema": (
        GRADES,
        ("pulmonary edema", "interstitial edema", "alveolar edema", "vascular congestion"),
        ("", LUNGS[2]),
    ),
    "Consolidation": (("", "dense", "patchy"), ("consolidation", "airspace consolidation"), LOBES),
    "Pneumonia": (("", "early", "extensive"), ("pneumonia", "infectious opacity", "bronchopneumonia"), LOBES),
    "Atelectasis": (
        GRADES,
        ("atelectasis", "linear atelectasis", "segmental atelectasis", "partial collapse"),
        LOBES + BASES,
    ),
    "Pneumothorax": (SIZES, ("pneumothorax", "apical pneumothorax"), SIDES[:2]),
    "Pleural Effusion": EFFUSION_TERMS,
    "Pleural Other": (GRADES, ("pleural thickening", "pleural scarring", "pleural plaque"), SIDES),
    "Fracture": (("", "acute", "healed", "displaced"), ("rib fracture", "clavicle fracture"), SIDES[:2]),
    "Support Devices": (
        ("", "new", "unchanged"),
        ("central venous catheter", "endotracheal tube", "enteric tube", "pacemaker"),
        ("", "in place"),
    ),
    "Effusion": EFFUSION_TERMS,
    "Infiltration": (GRADES, ("infiltrate", "interstitial infiltrate", "patchy infiltrate"), LUNGS),
    "Mass": (SIZES, ("mass", "lung mass", "tumor"), LOBES),
    "Nodule": (("", "tiny", "small"), ("nodule", "calcified nodule", "granuloma"), LOBES),
    "Emphysema": (GRADES, ("emphysema", "bullous emphysema", "hyperinflation"), ("", LUNGS[2])),
    "Fibrosis": (GRADES, ("fibrosis", "interstitial fibrosis", "scarring"), LUNGS + BASES),
    "Pleural_Thickening": (GRADES, ("pleural thickening", "apical pleural thickening"), SIDES),
    "Hernia": (SIZES, ("hiatal hernia", "diaphragmatic hernia"), ("", "behind the heart")),
    "COVID-19": (GRADES, ("COVID-19 pneumonia", "viral pneumonia", "peripheral opacities"), LUNGS),
}


def known(finding: str, among: Mapping[str, object]) -> str:
    """`finding`, if it is a key of `among`.

    Raises:
        UserError: If it is not, naming those that are.
    """
    if finding not in among:
        raise UserError(f"no prompts for {finding!r}; there are some for {', '.join(among)}")
    return finding


def class_prompts(finding: str, number: int | None = None, seed: int = 0) -> list[str]:
    """Every severity with every subtype at every location, as GLoRIA describes a class (Huang et al. 2021).

    # differs from marshuang80/gloria: the words are our own, and a draw depends on the seed and the finding alone, not
    # on what was drawn before

    Args:
        finding (`str`): A key of `CLASS_TERMS`.
        number (`int`, *optional*, defaults to all): How many of them to draw without replacement.
        seed (`int`, *optional*, defaults to 0): Of the draw.

    Returns:
        `list[str]`: Prompts such as "small layering effusion on the left": all in a fixed order, or those drawn.

    Raises:
        UserError: If the finding is unknown, or has fewer prompts than `number`.
    """
    terms = CLASS_TERMS[known(finding, CLASS_TERMS)]
    prompts = [" ".join(word for word in words if word) for words in itertools.product(*terms)]
    if number is None:
        return prompts
    if not 1 <= number <= len(prompts):
        raise UserError(f"number={number} of class prompts for {finding!r}; pass 1 to {len(prompts)}, or None for all")
    return random.Random(seed).sample(prompts, number)
