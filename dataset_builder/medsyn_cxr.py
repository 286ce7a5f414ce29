"""`MedSynCXR`: the dataset of `medsyn build` as a `datasets` builder, made in memory of the same rows.

```python
from dataset_builder.medsyn_cxr import MedSynCXR

builder = MedSynCXR(num_samples=200, seed=0)  # or MedSynCXR(reports="reports.jsonl")
builder.download_and_prepare(num_proc=2)
images = builder.as_dataset()  # {"train": ..., "validation": ..., "test": ...}
stream = builder.as_streaming_dataset(split="train")
```
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import datasets
from datasets.fingerprint import Hasher

from dataset_builder.generators.radiograph import ImageGenerator
from dataset_builder.pipeline.manifest import package_versions
from dataset_builder.pipeline.plan import SPLIT_SHARES, PlannedImage, Row, default_policy, make_plan
from dataset_builder.pipeline.render import PART_IMAGES, one_torch_thread
from dataset_builder.pipeline.rows import IMAGE_FORMATS, dataset_row, render_images, row_features
from dataset_builder.reports.funnel import Funnel
from dataset_builder.reports.record import ReportRecord
from medsyn.errors import UserError


@dataclass(eq=False)
class MedSynCXRConfig(datasets.BuilderConfig):
    """
    What to draw, with the options and defaults of `medsyn build`.

    Args:
        num_samples (`int`, *optional*, defaults to 200): Reports for the grammar to write, unless `reports` are
            given.
        reports (`str`, `os.PathLike` or `Sequence[ReportRecord]`, *optional*): MIMIC-CXR, Open-i or a table, as
            `medsyn build --reports` takes them, or the reports themselves.
        columns (`dict`, *optional*): Columns of the table, as the arguments of `read_table`
            (`{"impression_column": "text"}`).
        per, any_view (*optional*): Of MIMIC-CXR alone, as in [`~dataset_builder.reports.sources.open_reports`].
        generator (`ImageGenerator`, *optional*): By default `PhantomGenerator(image_size)`.
        image_size (`int`, *optional*, defaults to 256): Height and width of the phantom's images.
        seed, seed_mode, image_format, min_tokens, limit, splits, allow_cross_split_repeats:
            As in [`~dataset_builder.build.build`]; `seed` is a number.
        text_policy (`str`, *optional*): As in [`~dataset_builder.build.build`]; here it decides the order of the rows
            and nothing else.
    """

    num_samples: int = 200
    reports: str | os.PathLike | Sequence[ReportRecord] | None = None
    columns: dict | None = None
    per: str | None = None
    any_view: bool = False
    generator: ImageGenerator | None = None
    image_size: int = 256
    seed: int = 0
    seed_mode: str = "study"
    image_format: str = "png"
    min_tokens: int = 3
    limit: int | None = None
    splits: Sequence[float] = SPLIT_SHARES
    allow_cross_split_repeats: bool = False
    text_policy: str | None = None

    def image_generator(self) -> ImageGenerator:
        if self.generator is None:
            from dataset_builder.generators.phantom import PhantomGenerator

            self.generator = PhantomGenerator(image_size=self.image_size)
        return self.generator

    def records(self) -> Iterator[ReportRecord]:
        if self.reports is None:
            from dataset_builder.reports.grammar import write_reports

            return iter(write_reports(self.num_samples, seed=self.seed))
        if isinstance(self.reports, (str, os.PathLike)):
            from dataset_builder.reports.sources import open_reports

            return open_reports(self.reports, per=self.per, any_view=self.any_view, columns=self.columns)[0]
        return iter(self.reports)

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """
        The name in the cache: it follows the generator's settings, the versions that images can depend on and what
        the reports hold, not where they lie. A folder or archive is known by the names, sizes and times of its files.
        """
        generator = self.image_generator()
        content = dict(config_kwargs, generator=[generator.name, generator.batch_size, generator.settings()])
        content["versions"] = package_versions()
        if isinstance(self.reports, (str, os.PathLike)):
            content["reports"] = _fingerprint(Path(self.reports))
        return f"{self.name}-{Hasher.hash([sorted(content.items(), key=lambda item: item[0]), custom_features])}"


def _fingerprint(path: Path) -> list:
    if path.is_file() and path.suffix != ".zip":
        return [path.name, hashlib.sha256(path.read_bytes()).hexdigest()]
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    stats = [(str(file.relative_to(path)), file.stat()) for file in files]
    return [path.name, [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]]


class MedSynCXR(datasets.GeneratorBasedBuilder):
    """
    Synthetic chest radiographs drawn from reports. The rows are those of `medsyn build`, image bytes included.

    Configs: `default` and `phantom`, which are the same. Under the seed modes `prompt` and `fixed` an image that
    several rows share may be drawn more than once, with equal pixels.

    Raises:
        UserError: On preparing: a repeated study id, a bad table or setting, images that would stand in two splits.
    """

    BUILDER_CONFIG_CLASS = MedSynCXRConfig
    BUILDER_CONFIGS = [
        MedSynCXRConfig(name="default", version="1.0.0", description="The same as phantom."),
        MedSynCXRConfig(name="phantom", version="1.0.0", description="Rendered from a CT by the embedded phantom."),
    ]
    DEFAULT_CONFIG_NAME = "default"

    def _info(self) -> datasets.DatasetInfo:
        if self.config.image_format not in IMAGE_FORMATS:
            raise UserError(f"image format {self.config.image_format!r} is not one of {', '.join(IMAGE_FORMATS)}")
        return datasets.DatasetInfo(
            description="Synthetic chest radiographs drawn from radiology reports. Not for clinical use.",
            features=row_features(self.config.image_generator().localizes),
        )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        config = self.config
        kept = list(islice(Funnel(min_tokens=config.min_tokens)(config.records()), config.limit))
        plan = make_plan(
            kept,
            config.image_generator(),
            config.seed,
            config.seed_mode,
            config.splits,
            config.allow_cross_split_repeats,
            order_by_id=(config.text_policy or default_policy(kept)) != "public",
        )
        splits = []
        for split, rows in plan.split_rows().items():
            wanted = [(row, plan.images[row.image]) for row in rows]
            chunks = [wanted[start : start + PART_IMAGES] for start in range(0, len(wanted), PART_IMAGES)]
            splits.append(datasets.SplitGenerator(name=split, gen_kwargs={"chunks": chunks}))
        return splits

    def _generate_examples(self, chunks: list[list[tuple[Row, PlannedImage]]]) -> Iterator[tuple[str, dict]]:
        generator, image_format = self.config.image_generator(), self.config.image_format
        for chunk in chunks:
            distinct = {row.image: image for row, image in chunk}
            with one_torch_thread():
                rendered = render_images(
                    generator,
                    [image.record for image in distinct.values()],
                    [image.seed for image in distinct.values()],
                    image_format,
                )
            images = dict(zip(distinct, rendered, strict=True))
            for row, image in chunk:
                example = dataset_row(
                    row, image.seed, images[row.image], generator.name, image_format, generator.localizes
                )
                yield example["image_id"], example
