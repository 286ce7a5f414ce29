"""Embeddings and ranks of images and reports, against plain dense references."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import VisionTextDualEncoderProcessor

from hub_medsyn.inference.retrieval import (
    distinct_texts,
    embed_images,
    embed_texts,
    model_similarity,
    nearest,
    ranks_from_similarity,
    retrieval_metrics,
    retrieval_ranks,
)
from tests.fixtures.tiny_models import tiny_convirt, tiny_gloria, tiny_image_processor, tiny_mgca, tiny_tokenizer

TEXTS = [
    "small left pleural effusion",
    "no acute process",
    "large right pneumothorax with mild cardiomegaly. no pleural effusion",
    "normal heart size",
    "no acute process",
]


def processor():
    return VisionTextDualEncoderProcessor(tiny_image_processor(), tiny_tokenizer())


def draw_images(number=5):
    pixels = np.random.default_rng(3).integers(0, 256, (number, 40, 30), np.uint8)
    return [Image.fromarray(image) for image in pixels]


def random_embeds(rows, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator), dim=-1)


def dense_ranks(scores, keys):
    """By sorting, one query at a time: the rank of the own text among distinct texts, and of a text's best image."""
    distinct = list(dict.fromkeys(keys))
    columns = [keys.index(key) for key in distinct]
    image_ranks = [
        1 + sorted(row[columns], reverse=True).index(row[keys.index(key)])
        for row, key in zip(scores, keys, strict=True)
    ]
    text_ranks = []
    for column, key in zip(columns, distinct, strict=True):
        order = np.argsort(-scores[:, column])
        text_ranks.append(1 + min(place for place, image in enumerate(order) if keys[image] == key))
    return image_ranks, text_ranks


@pytest.mark.parametrize("make", [tiny_convirt, tiny_gloria, tiny_mgca])
def test_embeddings_equal_the_models_own_in_the_order_given_whatever_the_batch(make):
    model = make().train()
    with torch.no_grad():
        model.eval()
        text = tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")
        pixels = tiny_image_processor()(draw_images(), return_tensors="pt")["pixel_values"]
        expected = model(**text, pixel_values=pixels)
    model.train()
    for batch_size in (2, 64):
        images = embed_images(model, processor(), (image for image in draw_images()), batch_size)
        texts = embed_texts(model, processor(), iter(TEXTS), batch_size)
        torch.testing.assert_close(images, expected.image_embeds, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(texts, expected.text_embeds, rtol=1e-4, atol=1e-5)
        assert images.dtype == texts.dtype == torch.float32 and not images.requires_grad and model.training
        assert not images.is_inference()
        torch.testing.assert_close(images.norm(dim=1), torch.ones(5))
        similarity = model_similarity(model, processor(), iter(draw_images()), TEXTS, batch_size, batch_size)
        torch.testing.assert_close(similarity, expected.logits_per_image, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [tiny_convirt, tiny_gloria, tiny_mgca])
def test_similarities_of_a_model_in_half_precision_are_not_rounded_to_it(make):
    model = make("vit").to(torch.bfloat16)
    scores = model_similarity(model, processor(), draw_images(), TEXTS)
    assert not torch.equal(scores, scores.bfloat16().float())
    assert torch.equal(scores[:, 1], scores[:, 4]) and scores[0].unique().numel() == 4  # four different texts


def test_texts_beyond_the_encoders_limit_are_cut():
    model, long = tiny_gloria(), "normal heart size " * 60
    cut = embed_texts(model, processor(), [long, long + "pleural effusion"])
    torch.testing.assert_close(cut[0], cut[1])


def test_what_cannot_be_embedded_is_told():
    model = tiny_convirt()
    with pytest.raises(ValueError, match="text 1 of 2 is empty"):
        embed_texts(model, processor(), ["no", " "])
    with pytest.raises(ValueError, match="single string"):
        embed_texts(model, processor(), "no")
    with pytest.raises(ValueError, match="no texts"):
        embed_texts(model, processor(), [])
    with pytest.raises(ValueError, match="single Image"):
        embed_images(model, processor(), draw_images()[0])
    with pytest.raises(ValueError, match="no images"):
        embed_images(model, processor(), iter([]))
    bad = [*draw_images(3), np.full((8, 8), np.nan)]
    with pytest.raises(ValueError, match="starts at image 2: image 1 of 2: .*NaN"):
        embed_images(model, processor(), bad, batch_size=2)
    with torch.no_grad():
        model.image_head[-1].bias.fill_(torch.nan)
    model.train()
    with pytest.raises(ValueError, match="number 0 of the images"):
        embed_images(model, processor(), draw_images())
    assert model.training  # again, in spite of the errors


@pytest.mark.parametrize("chunk_size", [3, 7, 4096])
def test_ranks_equal_a_dense_sort_with_equal_texts_as_one_target(chunk_size):
    rows = 23
    keys = [f"report {number}" for number in np.random.default_rng(0).integers(0, 9, rows)]
    assert len(set(keys)) == 8
    images, texts = random_embeds(rows, seed=1), random_embeds(rows, seed=2)
    texts = texts[[keys.index(key) for key in keys]]  # equal texts have equal embeddings
    result = retrieval_ranks(images, texts, texts=keys, chunk_size=chunk_size)
    scores = (images @ texts.T).numpy()
    image_ranks, text_ranks = dense_ranks(scores, keys)
    assert result.image_ranks.tolist() == image_ranks and result.text_ranks.tolist() == text_ranks
    assert (result.num_images, result.num_texts) == (23, 8)
    assert [list(dict.fromkeys(keys))[number] for number in result.text_of_image] == keys
    columns = [keys.index(key) for key in dict.fromkeys(keys)]
    same = ranks_from_similarity(torch.tensor(scores[:, columns]), result.text_of_image, chunk_size)
    assert same.image_ranks.tolist() == image_ranks and same.text_ranks.tolist() == text_ranks
    metrics = result.metrics(ks=(1, 3))
    assert metrics["image_to_text_recall_at_3"] == np.mean(np.array(image_ranks) <= 3)
    assert metrics["text_to_image_median_rank"] == np.median(text_ranks)
    assert metrics["text_to_image_mean_reciprocal_rank"] == pytest.approx(np.mean(1 / np.array(text_ranks)))
    assert metrics == retrieval_metrics(images, texts, texts=keys, ks=(1, 3), chunk_size=chunk_size)


def test_a_perfect_model_is_first_even_where_reports_repeat():
    keys = ["normal"] * 6 + ["effusion", "mass"]
    texts = torch.eye(3)[[0] * 6 + [1, 2]]
    metrics = retrieval_metrics(texts, texts, texts=keys, ks=(1,))
    assert set(metrics.values()) == {1.0}
    apart = retrieval_metrics(texts, texts, ks=(1,))  # six equally right answers, of which one would count
    assert apart["image_to_text_recall_at_1"] == 2 / 8


def test_a_model_that_says_the_same_of_everything_is_at_chance():
    rows = 41
    keys = [number // 2 for number in range(rows)]  # 21 texts, of two images each but the last
    one = random_embeds(1, dim=300).expand(rows, -1)
    result = retrieval_ranks(one, one, text_ids=keys, chunk_size=16)
    assert result.image_ranks.tolist() == [11.0] * rows  # the middle of 21
    assert result.text_ranks[:20].tolist() == [14.0] * 20 and result.text_ranks[20] == 21  # (41 + 1) / (images + 1)
    assert result.metrics()["image_to_text_recall_at_10"] == 0
    chance = result.chance()
    assert chance["image_to_text_median_rank"] == 11
    assert chance["image_to_text_recall_at_5"] == pytest.approx(5 / 21)
    # A first image among 5 of 41, when a text has two: not (39/41)(38/40)...(35/37).
    pairs = 1 - np.prod([(39 - place) / (41 - place) for place in range(5)])
    assert chance["text_to_image_recall_at_5"] == pytest.approx((20 * pairs + 5 / 41) / 21)


def test_chance_is_what_random_scores_get():
    generator = torch.Generator().manual_seed(0)
    keys = [number % 12 for number in range(30)]
    results = [ranks_from_similarity(torch.rand(30, 12, generator=generator), keys) for _ in range(300)]
    chance = results[0].chance(ks=(1, 5))
    for name in chance:
        if "median" not in name:
            drawn = [result.metrics(ks=(1, 5))[name] for result in results]
            assert np.mean(drawn) == pytest.approx(chance[name], abs=4 * np.std(drawn) / 300**0.5), name
    every = np.concatenate([result.text_ranks for result in results])
    assert chance["text_to_image_median_rank"] == pytest.approx(np.median(every), abs=1)


def test_ties_within_rounding_are_ties_and_beyond_it_are_not():
    scores = torch.full((4, 4), 0.5)
    scores[0] = torch.tensor([0.5, 0.5 + 4e-7, 0.5 - 4e-7, 0.4])
    scores[1] = torch.tensor([0.5 + 4e-6, 0.5, 0.2, 0.2])
    assert ranks_from_similarity(scores, range(4)).image_ranks[:2].tolist() == [2.0, 2.0]


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_no_block_is_larger_than_the_chunk():
    rows, chunk = 12_000, 1_000
    images, texts = random_embeds(rows, 8, seed=1), random_embeds(rows, 8, seed=2)
    labels = np.arange(rows) % 5
    with LargestTensor() as largest:
        result = retrieval_ranks(images, texts, chunk_size=chunk)
    assert chunk**2 == largest.numel and rows * 8 < chunk**2
    assert result.metrics()["image_to_text_median_rank"] == pytest.approx(rows / 2, rel=0.05)
    part = slice(0, 3_000)
    with LargestTensor() as largest:
        retrieval_metrics(
            images[part], texts[part], image_labels=labels[part], text_labels=labels[part], chunk_size=500
        )
    assert largest.numel <= 500**2 + 500 * 10
    with LargestTensor() as largest:
        nearest(images, texts, 3, chunk_size=chunk)
    assert largest.numel == chunk**2


def test_precision_equals_a_dense_reference_for_classes_and_for_several_labels():
    rows, ks = 31, (1, 5)
    images, texts = random_embeds(rows, seed=4), random_embeds(rows, seed=5)
    generator = np.random.default_rng(0)
    classes = generator.choice(["edema", "mass", "none"], rows)
    several = generator.integers(0, 2, (rows, 3)).astype(float)
    several[0], several[1] = 0, (-1, np.nan, 0)  # nothing present: no part in the mean
    order = (-(images @ texts.T)).argsort(1).numpy()
    back = (-(texts @ images.T)).argsort(1).numpy()
    for labels in (classes, several):
        present = several == 1
        right = classes[:, None] == classes if labels is classes else (present[:, None] & present[None]).any(-1)
        asked = np.ones(rows, bool) if labels is classes else present.any(1)
        metrics = retrieval_metrics(images, texts, ks=ks, image_labels=labels, text_labels=labels, chunk_size=8)
        for name, answers in (("image_to_text", order), ("text_to_image", back)):
            for k in ks:
                expected = np.take_along_axis(right, answers[:, :k], 1).mean(1)[asked].mean()
                assert metrics[f"{name}_precision_at_{k}"] == pytest.approx(expected)
            assert metrics[f"{name}_precision_chance"] == pytest.approx(right[asked].mean())


def test_precision_of_a_constant_model_is_the_share_of_right_answers_wherever_they_stand():
    one = torch.ones(10, 2) / 2**0.5
    labels = ["mass"] * 3 + ["none"] * 7  # sorted: whatever comes first would be all right or all wrong
    metrics = retrieval_metrics(one, one, ks=(1, 4), image_labels=labels, text_labels=labels, chunk_size=4)
    for k in (1, 4):
        assert metrics[f"text_to_image_precision_at_{k}"] == pytest.approx((3 * 0.3 + 7 * 0.7) / 10)


def test_what_cannot_be_ranked_is_told():
    embeds = random_embeds(4)
    with pytest.raises(ValueError, match=r"\(4, 6\) and \(3, 6\)"):
        retrieval_ranks(embeds, embeds[:3])
    with pytest.raises(ValueError, match="3 texts for 4 rows"):
        retrieval_ranks(embeds, embeds, texts=["a", "b", "c"])
    with pytest.raises(ValueError, match="both tell texts apart"):
        retrieval_ranks(embeds, embeds, texts=["a"] * 4, text_ids=range(4))
    broken = embeds.clone()
    broken[2, 1] = torch.nan
    with pytest.raises(ValueError, match="row 2 of text_embeds is not finite"):
        retrieval_ranks(embeds, broken)
    with pytest.raises(ValueError, match=r"shape \(3,\) .* of shape \(4, 4\)"):
        ranks_from_similarity(torch.rand(4, 4), [0, 1, 2])
    with pytest.raises(ValueError, match="names 2 columns from 0 to 2 of 3"):
        ranks_from_similarity(torch.rand(4, 3), [0, 2, 2, 0])
    with pytest.raises(ValueError, match="NaN"):
        ranks_from_similarity(broken[:, :4], range(4))
    with pytest.raises(ValueError, match="one of the two is missing"):
        retrieval_metrics(embeds, embeds, image_labels=[0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"text_labels of shape \(3,\)"):
        retrieval_metrics(embeds, embeds, image_labels=[0, 1, 0, 1], text_labels=[0, 1, 0])
    with pytest.raises(ValueError, match="1 rows have other text_labels"):
        retrieval_metrics(embeds, embeds, texts=list("aabc"), image_labels=[0, 1, 0, 1], text_labels=[0, 1, 0, 1])
    with pytest.raises(ValueError, match="precision at 10 of 4"):
        retrieval_metrics(embeds, embeds, image_labels=[0, 1, 0, 1], text_labels=[0, 1, 0, 1])
    with pytest.raises(ValueError, match="no query has a positive label"):
        retrieval_metrics(embeds, embeds, ks=(1,), image_labels=np.zeros((4, 2)), text_labels=np.zeros((4, 2)))


def test_nearest_equals_a_sort_across_chunks():
    queries, index = random_embeds(5, seed=1), random_embeds(40, seed=2)
    values, order = (queries @ index.T).sort(1, descending=True)
    for chunk_size in (3, 7, 100):
        scores, rows = nearest(queries, index, 4, chunk_size)
        torch.testing.assert_close(scores, values[:, :4])
        assert rows.tolist() == order[:, :4].tolist()
    with pytest.raises(ValueError, match="k=41 of an index with 40"):
        nearest(queries, index, 41)


def test_near_duplicates_are_one_target():
    images, texts = torch.eye(3), torch.eye(3)
    near = retrieval_ranks(images, texts, texts=["No change since 3/4/2019.", "no change since ___", "3 mm nodule"])
    equal = retrieval_ranks(images, texts, texts=["a", "a", "b"])
    assert near.image_ranks.tolist() == equal.image_ranks.tolist() and len(near.text_ranks) == 2


def test_text_ids_may_be_an_array_and_must_be_one_a_row():
    images = torch.eye(3)
    by_array = retrieval_ranks(images, images, text_ids=np.array([5, 5, 9]))
    assert by_array.text_of_image.tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="0 texts for 3 rows"):
        retrieval_ranks(images, images, text_ids=[])


def test_distinct_texts_are_those_that_are_ranked():
    texts = ["No change since 3/4/2019.", "3 mm nodule", "no change since ___"]
    distinct, text_of_image = distinct_texts(texts)
    assert distinct == texts[:2] and text_of_image == [0, 1, 0]
    images, embeds = torch.randn(3, 4), torch.randn(3, 4)
    ranked = retrieval_ranks(images, embeds, texts=texts)
    scored = ranks_from_similarity(images @ embeds[:2].T, text_of_image)
    assert ranked.image_ranks.tolist() == scored.image_ranks.tolist()
