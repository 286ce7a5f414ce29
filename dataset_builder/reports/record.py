"""One study's report, as every reader hands it to the build."""

from __future__ import annotations

from dataclasses import dataclass

from dataset_builder.findings import Finding


@dataclass(frozen=True)
class ReportRecord:
    """One study.

    Args:
        study_id (`str`): Unique within a dataset.
        subject_id (`str`): The patient; splits never cut one in two.
        impression (`str`): The cleaned impression, the prompt of the image generator.
        findings (`str`, *optional*): The cleaned FINDINGS section.
        report (`str`, *optional*): The whole report as found.
        source (`str`, *optional*, defaults to `""`): Where it came from: `grammar`, or the name of the file.
        split (`str`, *optional*): `train`, `validation` or `test` where the source fixes it.
        view (`str`, *optional*): `PA` or `AP` where the source fixes it.
        scene (`tuple[Finding, ...]`, *optional*): What the report says, where it is known by construction; otherwise
            it is read from the text.
        labels (`dict[str, int | None]`, *optional*): The 14 CheXpert labels of the study where the source ships them;
            1 present, 0 absent, -1 uncertain, `None` unmentioned.
        impression_from (`str`, *optional*, defaults to `""`): What headed the impression in the whole report; see
            [`~dataset_builder.reports.sections.Sections`].
        subject_known (`bool`, *optional*, defaults to `True`): `False` where the source names no patients and
            `subject_id` is the study's.
        unfit (`str`, *optional*): Why the study cannot be used, such as `missing_report` or `no_frontal_film`. The
            funnel counts it and leaves it out.
    """

    study_id: str
    subject_id: str
    impression: str
    findings: str | None = None
    report: str | None = None
    source: str = ""
    split: str | None = None
    view: str | None = None
    scene: tuple[Finding, ...] | None = None
    labels: dict[str, int | None] | None = None
    impression_from: str = ""
    unfit: str | None = None
    subject_known: bool = True
