"""COVIDx from the lists of COVID-Net: text files of `patientid filename label source`, a film a line.

The lists 9A (and 7A, 8A) tell normal, pneumonia and COVID-19 apart; 6 (and the B lists) only positive and negative of
COVID-19. A patient's number counts within its source, so the subject is `source/patientid`.
"""

from __future__ import annotations

import re
from pathlib import Path

from dataset_builder.radiographs.film_set import Film, FilmSet, OfficialSplit, find_file
from dataset_builder.radiographs.splits import shuffled_parts

NAME = "covidx"
COVID = "COVID-19"
# Kind of list -> its words, and the label that each makes true. MGCA's rule "normal 0, pneumonia 1, else 2" is for the
# A lists; on list 6 it would call every film COVID-19.
LABELS = {
    "A": {"normal": "Normal", "pneumonia": "Pneumonia", "COVID-19": COVID},
    "B": {"negative": None, "positive": COVID},
}


def read_covidx(root: str | Path, version: str = "9A") -> FilmSet:
    """
    Reads `train_COVIDx9A.txt` and `test_COVIDx9A.txt`, with the films in `train/` and `test/`.

    Args:
        root (`str` or `Path`): The folder of the lists and films; the lists may also lie in `labels/`.
        version (`str`, *optional*, defaults to `"9A"`): Of the lists, as in their names.

    Raises:
        FileNotFoundError: A list is missing.
        ValueError: A line of another form or with another label.
    """
    root = Path(root)
    words = LABELS["A" if version.upper().endswith("A") else "B"]
    labels = tuple(label for label in words.values() if label)
    films: dict[str, Film] = {}
    names, repeated = [], []
    for split in ("train", "test"):
        name = f"{split}_COVIDx{version}.txt"
        path = find_file(root, name, f"labels/{name}")
        names.append(name)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            match = re.fullmatch(r"(\S+) (.+) (\S+) (\S+)", line.strip())  # file names may hold blanks
            if match is None or match[3] not in words:
                raise ValueError(
                    f"{path}, line {number}: does not read `patientid filename label source` with a label of "
                    f"{', '.join(words)}; is this a list of version {version}?"
                )
            patient, file, word, source = match.groups()
            film = Film(
                image_id=f"{split}/{file}",
                subject_id=f"{source}/{patient}",
                path=root / split / file,
                labels=tuple(int(label == words[word]) for label in labels),
                split="test" if split == "test" else None,
                extra=(source,),
            )
            if films.setdefault(film.image_id, film) != film:
                raise ValueError(f"{path}, line {number}: {file} stands in the list twice, with different words")
            if films[film.image_id] is not film:
                repeated.append(film.image_id)
    return FilmSet(
        name=NAME,
        title=f"COVIDx {version}",
        terms="films of several sources, each under its own terms; see the README of COVID-Net",
        labels=labels,
        films=list(films.values()),
        funnel={"lines": len(films) + len(repeated), "films": len(films)},
        left_out={"repeated_lines": repeated} if repeated else {},
        source={"tables": names, "version": version},
        extra=("source",),
        official={"official": lambda: official_covidx(list(films.values()))},
    )


def official_covidx(films: list[Film]) -> OfficialSplit:
    """MGCA's lists: the training list cut 80 / 20 by image, and the test list."""
    listed = [film for film in films if film.split is None]
    train, validation = shuffled_parts(len(listed), 0, train=0.8)
    return OfficialSplit(
        {
            "train": [listed[k] for k in train],
            "validation": [listed[k] for k in validation],
            "test": [film for film in films if film.split == "test"],
        }
    )
