"""Reading the Indiana University reports of Open-i as the NLM ships them: `NLMCXR_reports.tgz`, unpacked.

One XML file a report in `ecgen-radiology/`; a file is a study of a patient of its own, and no split is fixed. The
files do not say which of their images are frontal, so nothing is left out for its view.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from dataset_builder.reports.funnel import MAX_CHARACTERS
from dataset_builder.reports.record import ReportRecord
from medsyn.errors import UserError
from medsyn.texts import is_nothing

SOURCE = "openi"


def find_openi(path: str | Path) -> Path | None:
    """The folder of the XML files in `path`, or `None`."""
    path = Path(path)
    places = (path / "ecgen-radiology", path / "NLMCXR_reports" / "ecgen-radiology", path)
    return next((place for place in places if any(place.glob("*.xml"))), None)


def read_openi(path: str | Path) -> Iterator[ReportRecord]:
    """
    One record a file, in the order of their numbers; texts are raw here, `Funnel` cleans and filters them.

    What cannot be used is marked (`ReportRecord.unfit`): `broken_file` (not XML, or not readable), `not_a_report` (XML
    of another kind), `too_long` (above `MAX_CHARACTERS` bytes).

    Args:
        path (`str` or `Path`): The folder of the files, or one above it.

    Yields:
        `ReportRecord`: `study_id` is the report's `uId` (`CXR1`), or the file's name where it has none.

    Raises:
        UserError: If there are no XML files.
    """
    folder = find_openi(path)
    if folder is None:
        raise UserError(f"{path} holds no ecgen-radiology/*.xml; unpack NLMCXR_reports.tgz and name its folder")
    for file in sorted(folder.glob("*.xml"), key=_numbers):
        study, sections, unfit = _read(file)
        yield ReportRecord(
            study_id=study,
            subject_id=study,
            impression=sections.get("IMPRESSION", ""),
            findings=sections.get("FINDINGS"),
            source=SOURCE,
            impression_from="impression" if sections.get("IMPRESSION") else "",
            unfit=unfit,
        )


def _numbers(file: Path) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", file.stem)], file.name


def _read(file: Path) -> tuple[str, dict[str, str], str | None]:
    """(study, sections, what is wrong) of one file."""
    try:
        if file.stat().st_size > MAX_CHARACTERS:
            return file.stem, {}, "too_long"
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError, UnicodeDecodeError):
        return file.stem, {}, "broken_file"
    texts = root.findall(".//AbstractText")
    if not texts:
        return file.stem, {}, "not_a_report"
    number = root.find("uId")
    study = file.stem if number is None or is_nothing(number.get("id")) else number.get("id")
    return study, {text.get("Label", "").upper(): "".join(text.itertext()).strip() for text in texts}, None
