"""Reading MIMIC-CXR as PhysioNet ships it: the reports, as a tree or zipped, and the tables of MIMIC-CXR-JPG.

```
mimic-cxr-reports.zip                         or files/p10/p10000032/s50414267.txt
mimic-cxr-2.0.0-metadata.csv.gz               one row an image; holds ViewPosition
mimic-cxr-2.0.0-split.csv.gz                  optional: the official split
mimic-cxr-2.0.0-chexpert.csv.gz               optional: the CheXpert labels of the studies
```

Reports stream, in the order of their paths. What is held is an index of the tables: about 60 MB for the 227,835
studies (150 MB where each image counts), and, for a zip, its list of files.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dataset_builder.findings import CHEXPERT_LABELS
from dataset_builder.reports.funnel import MAX_CHARACTERS, NO_FRONTAL_FILM
from dataset_builder.reports.record import ReportRecord
from dataset_builder.reports.sections import read_sections
from medsyn.errors import UserError
from medsyn.schema import SPLIT_NAMES
from medsyn.tables import csv_rows
from medsyn.texts import is_nothing, quoted_id

PER = ("study", "image")
SOURCE = "mimic-cxr"
FRONTAL = ("PA", "AP")
_REPORT = re.compile(r"(?:^|/)p\d\d/p(\d+)/s(\d+)\.txt$")
_LABELS = {"": None, "1.0": 1, "0.0": 0, "-1.0": -1, "1": 1, "0": 0, "-1": -1}


NO_REPORTS = (
    "{path} holds images of MIMIC-CXR or tables of MIMIC-CXR-JPG, which ships no reports. They are in "
    "mimic-cxr-reports.zip of MIMIC-CXR (physionet.org/content/mimic-cxr); put it beside the tables"
)


@dataclass(frozen=True)
class MimicFiles:
    """Where the parts of a MIMIC-CXR folder lie; a table that is not there is `None`."""

    reports: Path
    metadata: Path | None
    split: Path | None
    chexpert: Path | None

    def describe(self, per: str, any_view: bool) -> dict:
        """What the manifest says of the source: names of files, never their folder."""
        tables = {name: getattr(self, name) for name in ("metadata", "split", "chexpert")}
        return {
            "format": SOURCE,
            "per": per,
            "any_view": any_view,
            **{name: path.name if path else None for name, path in tables.items()},
        }


def find_mimic_cxr(path: str | Path) -> MimicFiles | None:
    """
    Looks for MIMIC-CXR reports.

    Args:
        path (`str` or `Path`): The folder that holds `mimic-cxr-reports.zip` or `files/p10/...`, or either of the two.
            The tables are looked for in that folder and beside the reports.

    Returns:
        [`MimicFiles`], or `None` where `path` holds no such reports.
    """
    path = Path(path)
    if path.is_file():
        reports = path if path.suffix == ".zip" else None
    else:
        places = [path / "mimic-cxr-reports.zip", path / "files", path / "mimic-cxr-reports" / "files", path]
        reports = next((place for place in places if place.is_file() or any(place.glob("p1[0-9]"))), None)
    if reports is None:
        return None
    if reports.is_dir() and not any(any(reports.glob(f"p1[0-9]/p*/{pattern}")) for pattern in ("s*.txt", "*.txt")):
        images = next(iter(reports.glob("p1[0-9]/p*/s*/*.[jd][pc][gm]")), None)
        if images is not None:
            raise UserError(NO_REPORTS.format(path=path))
    folders = list(dict.fromkeys([path if path.is_dir() else path.parent, reports.parent, reports.parent.parent]))

    def table(name: str) -> Path | None:
        tables = [found for folder in folders for found in sorted(folder.glob(f"mimic-cxr-2.*-{name}.csv*"))]
        return next((found for found in tables if found.name.endswith((".csv", ".csv.gz"))), None)

    return MimicFiles(reports, table("metadata"), table("split"), table("chexpert"))


def read_mimic_cxr(path: str | Path, *, per: str = "study", any_view: bool = False) -> Iterator[ReportRecord]:
    """
    One record a study, or a frontal image, texts as found; what cannot be used is marked (`ReportRecord.unfit`).

    The marks: `no_frontal_film` (no PA or AP image), `missing_report` (a study of the metadata without a report),
    `missing_metadata` (a report whose study the metadata do not know), `not_utf8`, `too_long` (above `MAX_CHARACTERS`
    bytes), `broken_file` (damaged in the zip, or not readable).

    Args:
        path (`str` or `Path`): As in [`find_mimic_cxr`].
        per (`str`, *optional*, defaults to `"study"`): `study`: one record a study, its view that of the first frontal
            image of the metadata. `image`: one record an image, as the paper counts its pairs; its id is
            `<study>_<dicom id>`.
        any_view (`bool`, *optional*, defaults to `False`): Take every study and read no metadata.

    Yields:
        `ReportRecord`: `study_id` and `subject_id` are the numbers of the tables; `split` the official one
            (`validate` is `validation`), `labels` those of the CheXpert table, where these are there.

    Raises:
        UserError: No reports, no metadata, or a zip or table that is damaged or of another form.
    """
    if per not in PER:
        raise UserError(f"per {per!r} is not one of {', '.join(PER)}")
    if any_view and per == "image":
        raise UserError("any_view reads no metadata, so the images are not known; use per='study'")
    files = find_mimic_cxr(path)
    if files is None:
        raise UserError(
            f"{path} holds neither mimic-cxr-reports.zip nor files/p10/...; name the folder of the reports"
        )
    if files.metadata is None and not any_view:
        raise UserError(
            f"{files.reports.parent} has no mimic-cxr-2.0.0-metadata.csv.gz, which says which studies have a frontal "
            "film; put it there (it comes with MIMIC-CXR-JPG), or take all studies with any view (--any-view)"
        )
    studies = None if any_view else _read_metadata(files.metadata, per)
    splits = _read_splits(files.split) if files.split else {}
    labels = _read_labels(files.chexpert) if files.chexpert else {}

    def records(study: int, subject: int, images, load: Callable[[], bytes] | None) -> Iterator[ReportRecord]:
        sections = text = unfit = None
        frontal = any_view or any(view for _, view in images)
        if load is None:
            unfit = "missing_report"
        elif not images:
            unfit, images = "missing_metadata", (("", None),)
        elif frontal:
            text, unfit = _decode(load)
            sections = None if text is None else read_sections(text)
        for image, view in images:
            yield ReportRecord(
                study_id=f"{study}_{image}" if image else str(study),
                subject_id=str(subject),
                impression=sections.impression if sections else "",
                findings=sections.findings if sections else None,
                report=text,
                source=SOURCE,
                split=splits.get(study),
                view=view,
                labels=dict(zip(CHEXPERT_LABELS, labels[study], strict=True)) if study in labels else None,
                impression_from=sections.impression_from if sections else "",
                unfit=unfit or (None if view or any_view else NO_FRONTAL_FILM),
            )

    empty = True
    for subject, study, load in _reports(files.reports):
        empty = False
        images = (("", None),) if studies is None else studies.pop(study, (subject, ()))[1]
        yield from records(study, subject, images, load)
    if empty:
        raise UserError(f"{files.reports} holds no report named like p10/p10000032/s50414267.txt; check the folder")
    for study in sorted(studies or ()):
        subject, images = studies[study]
        yield from records(study, subject, images, None)


def _reports(path: Path) -> Iterator[tuple[int, int, Callable[[], bytes]]]:
    """(subject, study, how to read it) of every report, sorted by path."""
    if path.is_dir():
        for group in sorted(path.glob("p[0-9][0-9]")):
            for subject in sorted(group.iterdir()):
                for file in sorted(subject.glob("s*.txt")) if subject.is_dir() else ():
                    match = _REPORT.search(file.as_posix())
                    if match:
                        yield int(match[1]), int(match[2]), lambda file=file: _head(file.open("rb"))
        return
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is cut short or no zip ({error}); copy or download it again") from None
    with archive:
        for name in sorted(archive.namelist()):
            match = _REPORT.search(name)
            if match:
                yield int(match[1]), int(match[2]), lambda name=name: _head(archive.open(name))


def _head(file) -> bytes:
    with file:
        return file.read(MAX_CHARACTERS + 1)


def _decode(load: Callable[[], bytes]) -> tuple[str | None, str | None]:
    """The text, or what is wrong with it."""
    try:
        content = load()
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError):
        return None, "broken_file"
    if len(content) > MAX_CHARACTERS:
        return None, "too_long"
    try:
        return content.decode("utf-8-sig"), None
    except UnicodeDecodeError:
        return None, "not_utf8"


def _rows(path: Path, *columns: str) -> Iterator[tuple[str, ...]]:
    """The named columns of each row."""
    for row in csv_rows(path):
        missing = [column for column in columns if column not in row]
        if missing:
            raise UserError(f"{path} has no column {missing[0]!r}; it is not the table of MIMIC-CXR-JPG")
        yield tuple(row[column].strip() for column in columns)


def _number(value: str, path: Path, row: int) -> int:
    if not value.isdecimal():
        raise UserError(f"{path}, row {row}: {quoted_id(value)} is no number of a study or subject; download it again")
    return int(value)


def _read_metadata(path: Path, per: str) -> dict[int, tuple[int, tuple[tuple[str, str | None], ...]]]:
    """Study -> subject and images as (dicom id, frontal view); one image without an id where a study counts once."""
    studies: dict[int, tuple[int, tuple[tuple[str, str | None], ...]]] = {}
    one = {view: (("", view),) for view in (*FRONTAL, None)}  # shared, so that a study costs little
    columns = ("dicom_id", "study_id", "subject_id", "ViewPosition")
    for row, (image, study, subject, view) in enumerate(_rows(path, *columns), start=1):
        study, subject = _number(study, path, row), _number(subject, path, row)
        view = view.upper() if view.upper() in FRONTAL else None
        images = studies.get(study, (subject, ()))[1]
        if per == "image":
            images += ((image, view),)
        elif not images or images[0][1] is None:
            images = one[view]
        studies[study] = (subject, images)
    return studies


def _read_splits(path: Path) -> dict[int, str]:
    splits = {}
    for row, (study, split) in enumerate(_rows(path, "study_id", "split"), start=1):
        if split.lower() not in SPLIT_NAMES:
            raise UserError(
                f"{path}, row {row}: split {quoted_id(split)} is not train, validate or test; mend the row"
            )
        splits[_number(study, path, row)] = SPLIT_NAMES[split.lower()]
    return splits


def _read_labels(path: Path) -> dict[int, tuple[int | None, ...]]:
    labels, same = {}, {}
    for row, (study, *values) in enumerate(_rows(path, "study_id", *CHEXPERT_LABELS), start=1):
        values = ["" if is_nothing(value) else value for value in values]
        unknown = [value for value in values if value not in _LABELS]
        if unknown:
            raise UserError(f"{path}, row {row}: label {quoted_id(unknown[0])} is not 1, 0, -1 or empty; mend the row")
        values = tuple(_LABELS[value] for value in values)
        labels[_number(study, path, row)] = same.setdefault(values, values)
    return labels
