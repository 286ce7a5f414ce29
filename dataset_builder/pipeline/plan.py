"""Which image is made for which report: splits, seeds, and the images that several rows share."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from tqdm import tqdm

from dataset_builder.generators.radiograph import ImageGenerator
from dataset_builder.reports.record import ReportRecord
from medsyn.errors import UserError
from medsyn.schema import SPLITS
from medsyn.texts import normal_form, quoted_id, shared_groups, vetted

SPLIT_SHARES = (0.8, 0.1, 0.1)
SEED_MODES = ("study", "prompt", "fixed")
SHOWN_STUDIES = 5


@dataclass(frozen=True)
class Row:
    """
    One row of the dataset to be: its report, its split, the number of its image in `Plan.images`, and the hash that
    the whole report keys ([`~hub_medsyn.policy.report_hashes.report_hashes`]).
    """

    record: ReportRecord
    split: str
    image: int
    report_hash: str | None = None


@dataclass(frozen=True)
class PlannedImage:
    """One image to generate: the report it is drawn from, what the generator reads in it, and the seed."""

    record: ReportRecord
    condition: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """All rows, split by split, in the order of the reports or of hashed ids within one, and the images they need."""

    rows: list[Row]
    images: list[PlannedImage]

    def split_rows(self) -> dict[str, list[Row]]:
        """Split -> its rows; a split without rows is left out."""
        rows = defaultdict(list)
        for row in self.rows:
            rows[row.split].append(row)
        return dict(rows)

    def digest(self) -> str:
        """sha256 over every report, split, condition and seed in order: equal digests are equal datasets."""
        digest = hashlib.sha256()
        for row in self.rows:
            image = self.images[row.image]
            record = asdict(row.record)
            del record["subject_known"]  # which the split tells
            whole = [record, row.split, image.condition, image.seed]
            digest.update(json.dumps(whole, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()


def default_policy(records: Iterable[ReportRecord]) -> str:
    """Who may read reports of which nothing else is said: anyone those of the grammar, and only some all others."""
    return "public" if all(record.source == "grammar" for record in records) else "credentialed"


def image_seed(seed: int, seed_mode: str, study_id: str, condition: str) -> int:
    """
    The seed of one image; depends on nothing but the arguments.

    Args:
        seed (`int`): The base seed of the dataset.
        seed_mode (`str`): `study`: every study has its own; `prompt`: equal conditions have equal ones; `fixed`: the
            base seed for all, as in the paper.
        study_id (`str`): Read in the mode `study` alone.
        condition (`str`): `ImageGenerator.condition` of the report.

    Returns:
        `int`: At least 0 and below 2**63.
    """
    if seed_mode == "fixed":
        return seed
    key = [seed, study_id, condition] if seed_mode == "study" else [seed, condition]
    return int.from_bytes(hashlib.sha256(json.dumps(key).encode()).digest()[:8], "big") >> 1


def split_of(subject_id: str, shares: Sequence[float] = SPLIT_SHARES) -> str:
    """The split that the hash of a subject's id falls into: the same in every dataset built with these shares."""
    place = int.from_bytes(hashlib.sha256(subject_id.encode()).digest()[:8], "big") / 2**64
    for split, share in zip(SPLITS[:-1], shares, strict=False):
        if place < share:
            return split
        place -= share
    return SPLITS[-1]


def assign_splits(records: Sequence[ReportRecord], shares: Sequence[float] = SPLIT_SHARES) -> list[str]:
    """
    One split a record: the one its source fixes for any study of the subject, otherwise `split_of` the subject.

    Where the source names no patients, studies with near-duplicate impressions count as one subject (see
    [`~medsyn.texts.normal_form`]): they may be of one patient, and no text should be in train and test.

    Raises:
        UserError: If the source puts one subject into two splits, or the shares do not add up to 1.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or not abs(sum(shares) - 1) <= 1e-6:
        raise UserError(
            f"split shares {tuple(shares)} are not three numbers (train, validation, test) that add up to 1"
        )
    fixed: dict[str, str] = {}
    for record in records:
        if record.split is None:
            continue
        if record.split not in SPLITS:
            raise UserError(
                f"study {vetted(record.study_id)}: split {quoted_id(record.split)} is not one of {', '.join(SPLITS)}"
            )
        if fixed.setdefault(record.subject_id, record.split) != record.split:
            raise UserError(
                f"subject {quoted_id(record.subject_id)} is in splits {fixed[record.subject_id]} and {record.split}"
                f" of the reports (study {quoted_id(record.study_id)}); mend the table, or leave out its split column"
            )
    return [
        fixed.get(record.subject_id) or group_split or split_of(group, shares)
        for record, (group, group_split) in zip(records, _groups(records), strict=True)
    ]


def _groups(records: Sequence[ReportRecord]) -> list[tuple[str, str | None]]:
    """The subject that decides on each record's split and, if the source fixes one for its group, that split.

    Of several fixed splits it is the first of `SPLITS`, so that no text which is learnt from is tested on once more.
    """
    subjects = [record.subject_id for record in records]
    forms = [
        (record.subject_id, None) if record.subject_known else normal_form(record.impression) for record in records
    ]
    groups = shared_groups(subjects, forms)
    least = dict(sorted(zip(groups, subjects, strict=True), reverse=True))
    splits: dict[int, str] = {}
    for record, group in zip(records, groups, strict=True):
        if record.split is not None:
            splits[group] = min(splits.get(group, record.split), record.split, key=SPLITS.index)
    return [(least[group], splits.get(group)) for group in groups]


def make_plan(
    records: Iterable[ReportRecord],
    generator: ImageGenerator,
    seed: int = 0,
    seed_mode: str = "study",
    splits: Sequence[float] = SPLIT_SHARES,
    allow_cross_split_repeats: bool = False,
    order_by_id: bool = False,
) -> Plan:
    """
    Gives every report its split, seed and image.

    Args:
        records (`Iterable[ReportRecord]`): Reports with unique study ids.
        generator (`ImageGenerator`): Asked for the condition of each report.
        seed (`int`, *optional*, defaults to 0): The base seed, at least 0 and below 2**63.
        seed_mode (`str`, *optional*, defaults to `"study"`): See [`image_seed`]. Equal conditions with equal seeds
            share one image.
        splits (`Sequence[float]`, *optional*, defaults to `(0.8, 0.1, 0.1)`): Shares of train, validation and test.
        allow_cross_split_repeats (`bool`, *optional*, defaults to `False`): Let one image stand in two splits.
        order_by_id (`bool`, *optional*, defaults to `False`): Put the rows of a split in the order of the hashes of
            their study ids. A table may be sorted by its text, and then the order of the reports tells of it.

    Raises:
        UserError: A repeated study id, no report at all, a bad setting, one subject in two splits, or images that
            would stand in two splits.
    """
    from hub_medsyn.policy.report_hashes import report_hashes  # here, since rendering processes need nothing of it

    if seed_mode not in SEED_MODES:
        raise UserError(f"seed mode {seed_mode!r} is not one of {', '.join(SEED_MODES)}")
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UserError(f"seed {seed} is not between 0 and 2**63 - 1")
    records = list(records)
    if not records:
        raise UserError("no report is left to draw; look at what the filters skipped, or lower --min-tokens")
    seen: set[str] = set()
    for record in records:
        if record.study_id in seen:
            raise UserError(f"study id {quoted_id(record.study_id)} comes twice; ids have to be unique")
        seen.add(record.study_id)
    record_splits = assign_splits(records, splits)
    hashes = report_hashes(
        [(record.report, record.impression, record.study_id, record.subject_id) for record in records]
    )

    def place(index: int) -> tuple[int, bytes]:
        study = records[index].study_id.encode("utf-8", "surrogatepass")
        return SPLITS.index(record_splits[index]), hashlib.sha256(study).digest() if order_by_id else b""

    order = sorted(range(len(records)), key=place)  # stable

    rows: list[Row] = []
    images: list[PlannedImage] = []
    numbers: dict[tuple[int, str], int] = {}
    for index in tqdm(order, desc="planning", unit="report", delay=2):
        record = records[index]
        condition = generator.condition(record)
        seed_of_image = image_seed(seed, seed_mode, record.study_id, condition)
        # Under the mode `study` equal seeds mean one and the same study, so nothing is shared there.
        number = numbers.setdefault((seed_of_image, condition), len(images))
        if number == len(images):
            images.append(PlannedImage(record, condition, seed_of_image))
        rows.append(Row(record, record_splits[index], number, hashes[index]))
    plan = Plan(rows, images)
    if not allow_cross_split_repeats:
        refuse_repeats(plan, list(range(len(images))))
    return plan


def cross_split_repeats(plan: Plan, identities: Sequence) -> dict[str, int]:
    """
    Counts images that appear in more than one split.

    Args:
        plan (`Plan`): The rows.
        identities (`Sequence`): One value an image, equal where the images are equal, such as their sha256.

    Returns:
        `dict[str, int]`: `images` in two splits or more, and `rows` that hold one of them.
    """
    splits = defaultdict(set)
    rows: dict = defaultdict(int)
    for row in plan.rows:
        splits[identities[row.image]].add(row.split)
        rows[identities[row.image]] += 1
    shared = [identity for identity, names in splits.items() if len(names) > 1]
    return {"images": len(shared), "rows": sum(rows[identity] for identity in shared)}


def refuse_repeats(plan: Plan, identities: Sequence) -> None:
    """Raises `UserError` where [`cross_split_repeats`] finds any; names the first few studies."""
    repeats = cross_split_repeats(plan, identities)
    if not repeats["images"]:
        return
    first: dict = {}
    examples = []
    for row in plan.rows:
        other = first.setdefault(identities[row.image], row)
        if other.split != row.split:
            examples.append(
                f"{vetted(other.record.study_id)} ({other.split}) = {vetted(row.record.study_id)} ({row.split})"
            )
        if len(examples) == SHOWN_STUDIES:
            break
    raise UserError(
        f"{repeats['images']} images appear in more than one split ({repeats['rows']} of {len(plan.rows)} rows), for "
        f"example {', '.join(examples)}; use --seed-mode study, which draws every study anew, or accept that with "
        "--allow-cross-split-repeats"
    )
