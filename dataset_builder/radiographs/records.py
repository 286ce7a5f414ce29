"""What an adapter reads of a download before any image is opened: images with labels, patients and regions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

from dataset_builder.radiographs.regions import Region, Shape
from medsyn.errors import UserError
from medsyn.tables import first_few
from medsyn.texts import is_nothing, names_nobody, quoted_path, vetted


@dataclass(frozen=True, slots=True)
class RadiographRecord:
    """One image of a data set.

    Args:
        image_id (`str`): Unique in its set.
        subject_id (`str`): Whose it is.
        path (`Path`): The file.
        labels (`tuple[int | None, ...]`): In the order of `RadiographSet.labels`: 1 present, 0 absent, -1 uncertain,
            `None` unmentioned.
        split (`str`, *optional*): Where the source fixes it.
        view (`str`, *optional*): `PA`, `AP` or what else the source says.
        boxes (`tuple[Shape, ...]`, *optional*), masks (`tuple[Region, ...]`, *optional*): Where the findings are; none
            if there is nothing to mark, `None` if nobody looked.
        extra (`tuple[str | None, ...]`): The values of `RadiographSet.extra`.
    """

    image_id: str
    subject_id: str
    path: Path
    labels: tuple[int | None, ...]
    split: str | None = None
    view: str | None = None
    boxes: tuple[Shape, ...] | None = ()
    masks: tuple[Region, ...] | None = ()
    extra: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class OfficialSplit:
    """The lists of a published protocol: images by split, and a sentence on each of its flaws."""

    images: dict[str, list[RadiographRecord]]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RadiographSet:
    """All images of a download.

    Args:
        name (`str`): As `medsyn data prepare` calls it.
        title (`str`): For people.
        terms (`str`): Who may use it for what.
        labels (`tuple[str, ...]`): The names of the labels.
        images (`list[Image]`): In the order of the source.
        funnel (`dict[str, int]`): What is left after each step, in order; the last is the number of images.
        left_out (`dict[str, list[str]]`): Why what of the source is not in `images`.
        source (`dict`): What the manifest says of the source: names of files, label rules, options.
        boxes (`bool`), masks (`bool`): Whether the set has such columns.
        extra (`tuple[str, ...]`): Names of further text columns.
        official (`dict[str, Callable[[], OfficialSplit]]`): Published protocols by name, made when they are asked for.
    """

    name: str
    title: str
    terms: str
    labels: tuple[str, ...]
    images: list[RadiographRecord]
    funnel: dict[str, int]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    source: dict = field(default_factory=dict)
    boxes: bool = False
    masks: bool = False
    extra: tuple[str, ...] = ()
    official: dict[str, Callable[[], OfficialSplit]] = field(default_factory=dict)

    def __post_init__(self):
        if not self.images:
            raise UserError(f"{self.title}: no image is left of {self.funnel}; look at the tables and the options")
        unnamed = [
            str(image.path)
            for image in self.images
            if is_nothing(image.image_id) or names_nobody(image.subject_id.rpartition("/")[2])
        ]
        if unnamed:
            raise UserError(
                f"{self.title}: {len(unnamed)} images have no id or no patient in the tables: {first_few(unnamed)}; "
                "fill the cells or remove the rows"
            )
        outside = [image.image_id for image in self.images if _leaves_or_breaks(image.image_id)]
        if outside:
            raise UserError(
                f"{self.title}: {len(outside)} ids lead out of the folder or hold control characters: "
                f"{first_few([quoted_path(name) for name in outside])}; mend the tables"
            )
        counts = Counter(image.image_id for image in self.images)
        repeated = [image_id for image_id, count in counts.items() if count > 1]
        if repeated:
            raise UserError(
                f"{self.title}: {len(repeated)} images are in the tables more than once: {first_few(repeated)}; "
                "mend the tables"
            )


def _leaves_or_breaks(image_id: str) -> bool:
    """Whether an id is an absolute path or one upwards, or would break a list of ids, a line each."""
    path = PurePosixPath(image_id)
    return path.is_absolute() or ".." in path.parts or "\\" in image_id or not image_id.isprintable()


def find_file(root: Path, *names: str) -> Path:
    """
    The first of `names` that is a file in `root`.

    Raises:
        FileNotFoundError: None is, or `root` is no folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    found = next((root / name for name in names if (root / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{root} holds no {' or '.join(names)}; name the folder of the unpacked download")
    return found


def file_in(folder: Path, name: str, where: str) -> Path:
    """
    The file that a table names, relative to `folder`.

    Raises:
        UserError: The name leads out of the folder: a table from elsewhere could have any image of this machine
            packed, and an absolute path would stand in the data set as the image's id; names `where`.
    """
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise UserError(
            f"{where}: {quoted_path(name)} leads out of {folder}; name files inside the folder, relative to it"
        )
    return folder / name


def coordinates(values: Sequence[str], where: str) -> tuple[float, ...]:
    """
    Numbers of a table.

    Raises:
        UserError: One is not a finite number; `where` names the place.
    """
    try:
        numbers = tuple(float(value) for value in values)
    except ValueError:
        numbers = (float("nan"),)
    if not all(abs(number) < 1e9 for number in numbers):
        raise UserError(f"{where}: {', '.join(map(vetted, values))} are not coordinates; mend the row")
    return numbers


def index_images(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """
    The images in a folder and the folders below, by name without suffix.

    Raises:
        UserError: Two have one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            other = found.setdefault(path.stem, path)
            if other != path:
                raise UserError(f"{other} and {path} have one name; take one of them away")
    return found
