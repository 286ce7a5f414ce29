"""COVIDx from the lists of COVID-Net: text files of `patientid filename label source`, an image a line.

The lists up to 5 and those called A tell normal, pneumonia and COVID-19 apart; 6 and those called B only positive and
negative of COVID-19. A patient's number counts within its source, so the subject is `source/patientid`.
"""

from __future__ import annotations

import re
from pathlib import Path

from dataset_builder.radiographs.records import OfficialSplit, RadiographRecord, RadiographSet, file_in, find_file
from dataset_builder.radiographs.splits import shuffled_parts
from medsyn.errors import UserError
from medsyn.tables import text_lines

NAME = "covidx"
COVID = "COVID-19"
# The words of a list, and the label that each makes true. MGCA's rule "normal 0, pneumonia 1, else 2" is for lists of
# the first kind; on one of the second it would call every image COVID-19.
LABELS = (
    {"normal": "Normal", "pneumonia": "Pneumonia", "COVID-19": COVID},
    {"negative": None, "positive": COVID},
)
SOURCES = {"rnsa": "rsna"}  # the lists spell it both ways, and its ids are the same


def read_covidx(root: str | Path, version: str = "9A") -> RadiographSet:
    """
    Reads `train_COVIDx9A.txt` and `test_COVIDx9A.txt`, with the images in `train/` and `test/`.

    Args:
        root (`str` or `Path`): The folder of the lists and images; the lists may also lie in `labels/`.
        version (`str`, *optional*, defaults to `"9A"`): Of the lists, as in their names.

    Raises:
        FileNotFoundError: A list is missing.
        UserError: A line of another form or with another label.
    """
    root = Path(root)
    words: dict[str, str | None] = {}  # those of the kind to which the first line belongs
    images: dict[str, RadiographRecord] = {}
    names, listed, repeated = [], [], []
    for split in ("train", "test"):
        name = f"{split}_COVIDx{version}.txt"
        path = find_file(root, name, f"labels/{name}")
        names.append(name)
        for number, line in enumerate(text_lines(path), start=1):
            if not line.strip():
                continue
            match = re.fullmatch(r"(\S+) (.+) (\S+) (\S+)", line.strip())  # file names may hold blanks
            words = words or next((kind for kind in LABELS if match and match[3] in kind), {})
            if match is None or match[3] not in words:
                raise UserError(
                    f"{path}, line {number}: does not read `patientid filename label source` with a label of "
                    f"{' or '.join(', '.join(kind) for kind in ([words] if words else LABELS))}"
                )
            patient, file, word, source = match.groups()
            source = SOURCES.get(source, source)
            image = RadiographRecord(
                image_id=f"{split}/{file}",
                subject_id=f"{source}/{patient}",
                path=file_in(root / split, file, f"{path}, line {number}"),
                labels=tuple(int(label == words[word]) for label in words.values() if label),
                split="test" if split == "test" else None,
                extra=(source,),
            )
            if images.setdefault(image.image_id, image) != image:
                raise UserError(f"{path}, line {number}: {file} stands in the list twice, with different words")
            if images[image.image_id] is not image:
                repeated.append(image.image_id)
            listed.append(image)
    return RadiographSet(
        name=NAME,
        title=f"COVIDx {version}",
        terms="images of several sources, each under its own terms; see the README of COVID-Net",
        labels=tuple(label for label in words.values() if label),
        images=list(images.values()),
        funnel={"lines": len(listed), "images": len(images)},
        left_out={"repeated_lines": repeated} if repeated else {},
        source={"tables": names, "version": version},
        extra=("source",),
        official={"official": lambda: official_covidx(listed)},
    )


def official_covidx(listed: list[RadiographRecord]) -> OfficialSplit:
    """MGCA's lists: the lines of the training list cut 80 / 20, and the test list; an image once in each."""
    lines = [image for image in listed if image.split is None]
    train, validation = shuffled_parts(len(lines), 0, train=0.8)
    splits = {
        "train": [lines[k] for k in train],
        "validation": [lines[k] for k in validation],
        "test": [image for image in listed if image.split == "test"],
    }
    return OfficialSplit({split: list(dict.fromkeys(images)) for split, images in splits.items()})
