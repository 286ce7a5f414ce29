"""The index of images and reports: nearest neighbours, ties, blocks and refusals."""

from __future__ import annotations

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import VisionTextDualEncoderProcessor

from hub_medsyn.inference.embedding import embed_images, embed_texts
from spaces_app.index import BLOCK, ImageIndex
from spaces_app.loading import sample_of
from tests.fixtures.tiny_models import tiny_convirt, tiny_image_processor, tiny_tokenizer

TEXTS = ["pleural effusion", "clear lungs", "no acute process", "pleural effusion", "", "left lung nodule"]


def draw_image(seed: int) -> dict:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def rows_of(texts=TEXTS, first_image: int = 0) -> datasets.Dataset:
    columns = {
        "image": [draw_image(first_image + row) for row in range(len(texts))],
        "image_id": [f"image-{row}" for row in range(len(texts))],
        "seed": list(range(len(texts))),
        "prompt": list(texts),
    }
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


@pytest.fixture(scope="module")
def model():
    return tiny_convirt("vit")


@pytest.fixture(scope="module")
def processor():
    return VisionTextDualEncoderProcessor(tiny_image_processor(), tiny_tokenizer())


@pytest.fixture(scope="module")
def index(model, processor):
    return ImageIndex.build(model, processor, rows_of())


def of(images: torch.Tensor) -> ImageIndex:
    return ImageIndex(F.normalize(images, dim=1), images[:1], torch.zeros(1, dtype=torch.long))


def test_images_and_distinct_reports_are_embedded_once(index, model, processor):
    rows = rows_of()
    assert torch.allclose(index.images, embed_images(model, processor, rows["image"]), atol=1e-6)
    assert index.report_rows.tolist() == [0, 1, 2, 5]  # neither the repeat nor the empty one
    distinct = [TEXTS[row] for row in (0, 1, 2, 5)]
    assert torch.allclose(index.reports, embed_texts(model, processor, distinct), atol=1e-6)


def test_an_image_is_nearest_to_itself_and_a_report_is_told_by_its_first_row(index):
    for row, embed in enumerate(index.images):
        cosines, rows = index.nearest(embed, 2)
        assert rows[0] == row and cosines[0] == pytest.approx(1, abs=1e-5)
    cosines, rows = index.nearest(index.reports[3] * 7, 1, "reports")  # of any length
    assert rows.tolist() == [5] and cosines[0] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("number", [50, BLOCK, 2 * BLOCK + 77])
def test_neighbours_are_those_of_a_full_sort(number):
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(number, 8, generator=generator)
    queries = torch.randn(3, 8, generator=generator)
    cosines, rows = of(images).nearest(queries, 20)
    every = F.normalize(queries.double(), dim=1) @ F.normalize(images.double(), dim=1).T
    best = every.topk(20, dim=1).values
    assert torch.allclose(cosines.double(), best, atol=2e-6)
    assert torch.allclose(every.gather(1, rows), best, atol=2e-6)
    assert all(len(set(row)) == 20 for row in rows.tolist())


def test_of_ties_the_earlier_row_comes_first_in_and_across_blocks():
    images = torch.randn(BLOCK + 100, 4, generator=torch.Generator().manual_seed(0))
    same = [3, 900, BLOCK - 1, BLOCK, BLOCK + 60]
    images[same] = torch.tensor([0.3, -0.2, 0.9, 0.1])
    cosines, rows = of(images).nearest(images[3], 5)
    assert rows.tolist() == same
    assert cosines.unique().numel() == 1
    assert of(images).nearest(images[3], 2)[1].tolist() == same[:2]


def test_negative_cosines_keep_their_order():
    images = torch.tensor([[-1.0, 0.1], [-1.0, 0.0], [-1.0, 0.5], [-1.0, 0.0]])
    cosines, rows = of(images).nearest(torch.tensor([1.0, 0.0]), 4)
    assert rows.tolist() == [2, 0, 1, 3] and (cosines < 0).all()


@pytest.mark.parametrize(
    ("embed", "k", "among", "match"),
    [
        (torch.ones(16), 0, "images", "k=0 of an index with 6 images"),
        (torch.ones(16), 5, "reports", "k=5 of an index with 4 reports"),
        (torch.ones(15), 1, "images", r"shape \(15,\) is not \(16,\)"),
        (torch.full((16,), float("nan")), 1, "images", "NaN"),
        (torch.zeros(16), 1, "images", "nothing but zeros"),
        (torch.ones(16), 1, "masks", "neither images nor reports"),
    ],
)
def test_bad_questions_are_refused(index, embed, k, among, match):
    with pytest.raises(ValueError, match=match):
        index.nearest(embed, k, among)


def test_datasets_without_reports_are_refused(model, processor):
    with pytest.raises(ValueError, match="no column report"):
        ImageIndex.build(model, processor, rows_of(), text_column="report")
    with pytest.raises(ValueError, match="none of the 2 rows has a report"):
        ImageIndex.build(model, processor, rows_of(["", " "]))


class Largest(TorchDispatchMode):
    """Remembers how many elements the largest tensor of any operation has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_two_hundred_thousand_images_are_searched_in_blocks():
    images = F.normalize(torch.randn(200_000, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    index = ImageIndex(images, images[:1], torch.zeros(1, dtype=torch.long))
    with Largest() as largest:
        rows = index.nearest(images[123_456], 10)[1]
    assert rows[0] == 123_456
    assert largest.elements == BLOCK * 128  # the index has 25,600,000


def test_a_sample_spelt_as_nothing_has_no_text():
    row = {"image": Image.new("L", (4, 4)), "image_id": "a", "impression": "nan", "findings": "N/A"}
    sample = sample_of(row)
    assert sample.impression == sample.findings == ""
    assert sample_of(row | {"impression": " Clear. ", "findings": None}).impression == "Clear."
