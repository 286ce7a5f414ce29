"""GLoRIA's losses against the published code's own numbers, a plain loop, and where they must refuse."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hub_medsyn.loss_contrastive import nt_xent
from hub_medsyn.loss_gloria import _chunks, gloria_local_loss, local_similarity, word_attention

# Inputs, losses, gradients and attention of local_loss in marshuang80/gloria (commit 416466a,
# gloria/loss/gloria_loss.py, Apache-2.0), float64.
PUBLISHED = Path(__file__).parent / "data" / "gloria_local_sum.npz"


def features_of(numbers):
    """Regions `(5, 12, 16)`, words `(5, 12, 16)` and their mask out of the layout of the published code."""
    regions = torch.tensor(numbers["img"]).flatten(2).transpose(1, 2).contiguous().requires_grad_()
    words = torch.tensor(numbers["words"]).transpose(1, 2).contiguous().requires_grad_()
    mask = torch.arange(words.shape[1]) < torch.tensor(numbers["cap_lens"])[:, None]
    return regions, words, mask


def assert_equals_published(numbers, aggregate: str, rtol: float, **chunking):
    regions, words, mask = features_of(numbers)
    temperatures = [float(value) for value in numbers["temp"]]
    image_to_text, text_to_image = gloria_local_loss(regions, words, mask, *temperatures, aggregate, **chunking)
    (image_to_text + text_to_image).backward()
    close = {"rtol": rtol, "atol": rtol * 1e-1}
    np.testing.assert_allclose(image_to_text.item(), numbers["loss_i2t"], rtol=rtol)
    np.testing.assert_allclose(text_to_image.item(), numbers["loss_t2i"], rtol=rtol)
    gradient = regions.grad.transpose(1, 2).reshape(numbers["grad_img"].shape)
    np.testing.assert_allclose(gradient, numbers["grad_img"], **close)
    np.testing.assert_allclose(words.grad.transpose(1, 2), numbers["grad_words"], **close)
    with torch.no_grad():
        similarity = local_similarity(regions, words, mask, *temperatures[:2], aggregate)
        np.testing.assert_allclose(similarity, numbers["sim_before_temp3"], **close)
        attention = word_attention(regions, words, mask, temperatures[0])
        for item, length in enumerate(numbers["cap_lens"]):
            published = numbers[f"attn_{item}"][0].reshape(length, -1)
            np.testing.assert_allclose(attention[item, :length], published, **close)
            assert not attention[item, length:].any()


CHUNKINGS = [{}, {"chunk_scores": 1}, {"chunk_scores": 2000, "kept_scores": 0}]


@pytest.mark.parametrize("chunking", CHUNKINGS)
def test_equals_the_published_code(chunking):
    with np.load(PUBLISHED) as numbers:
        assert_equals_published(numbers, "sum", 1e-6, **chunking)


@pytest.mark.parametrize("aggregate", ["sum", "mean"])
@pytest.mark.parametrize(("kind", "rtol"), [("f64", 1e-6), ("f32", 1e-4)])
@pytest.mark.parametrize("chunking", CHUNKINGS)
def test_local_loss_equals_the_golden_numbers(golden, kind, rtol, aggregate, chunking):
    with np.load(golden / f"gloria_local_{aggregate}_{kind}.npz") as numbers:
        assert_equals_published(numbers, aggregate, rtol, **chunking)


@pytest.mark.parametrize(("kind", "rtol"), [("f64", 1e-6), ("f32", 1e-4)])
def test_attention_equals_the_golden_numbers(golden, kind, rtol):
    with np.load(golden / f"gloria_attention_{kind}.npz") as numbers:
        regions = torch.tensor(numbers["context"]).flatten(2).transpose(1, 2)
        words = torch.tensor(numbers["query"]).transpose(1, 2)
        attention = word_attention(regions, words, torch.ones(words.shape[:2], dtype=torch.bool))
        np.testing.assert_allclose(attention, numbers["attn"].reshape(attention.shape), rtol=rtol)
        context = (attention @ regions).transpose(1, 2)
        np.testing.assert_allclose(context, numbers["weighted_context"], rtol=rtol, atol=rtol * 1e-1)


@pytest.mark.parametrize(("kind", "rtol"), [("f64", 1e-6), ("f32", 1e-4)])
def test_global_loss_is_twice_the_mean_of_both_directions(golden, kind, rtol):
    with np.load(golden / f"gloria_global_{kind}.npz") as numbers:
        image, text = (torch.tensor(numbers[name], requires_grad=True) for name in ("img", "txt"))
        loss = 2 * nt_xent(image, text, 0.1, 0.5)
        loss.backward()
        np.testing.assert_allclose(loss.item(), numbers["loss_sum"], rtol=rtol)
        np.testing.assert_allclose(image.grad, numbers["grad_img"], rtol=rtol, atol=rtol)
        np.testing.assert_allclose(text.grad, numbers["grad_txt"], rtol=rtol, atol=rtol)


def test_zero_shot_similarity_equals_the_golden_numbers_with_word_counts(golden):
    with np.load(golden / "gloria_zeroshot_f32.npz") as numbers:
        regions = torch.tensor(numbers["img_l"]).flatten(2).transpose(1, 2)
        words = torch.tensor(numbers["txt_l"]).transpose(1, 2)
        positions = torch.arange(words.shape[1])

        def similarity(counts):
            mask = (positions > 0) & (positions <= torch.tensor(numbers[counts])[:, None])
            return local_similarity(regions, words, mask, aggregate="max")

        expected = numbers["local_sim_wordcounts"]
        np.testing.assert_allclose(similarity("word_counts"), expected, rtol=1e-4, atol=1e-6)
        # Counting characters, as published, takes in padding and gives other numbers.
        shipped = numbers["local_sim_charcounts_as_shipped"]
        np.testing.assert_allclose(similarity("char_counts"), shipped, rtol=1e-4, atol=1e-6)
        assert np.abs(expected - shipped).max() > 0.1


def random_features(images=3, captions=4, regions=7, words=6, dim=5):
    generator = torch.Generator().manual_seed(0)
    region = torch.randn(images, regions, dim, generator=generator, dtype=torch.float64)
    word = torch.randn(captions, words, dim, generator=generator, dtype=torch.float64)
    return region, word, torch.arange(words) < torch.tensor([6, 2, 5, 1])[:captions, None]


@pytest.mark.parametrize("aggregate", ["sum", "mean", "max"])
def test_equals_a_plain_loop_with_more_captions_than_images(aggregate):
    regions, words, mask = random_features()
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for image in range(3):
        for caption in range(4):
            own = words[caption, mask[caption]]  # (n, dim)
            share = (regions[image] @ own.T).softmax(1)  # (regions, n)
            context = (4 * share).softmax(0).T @ regions[image]  # (n, dim)
            powers = (5 * F.cosine_similarity(own, context)).exp()
            expected[image, caption] = getattr(powers, {"max": "amax"}.get(aggregate, aggregate))().log()
    torch.testing.assert_close(local_similarity(regions, words, mask, aggregate=aggregate), expected)


def test_padding_and_the_order_of_captions_do_not_matter():
    regions, words, mask = random_features()
    similarity = local_similarity(regions, words, mask)
    longer = torch.cat([words, torch.full((4, 3, 5), 9.0, dtype=torch.float64)], 1)
    padded = torch.cat([mask, torch.zeros(4, 3, dtype=torch.bool)], 1)
    torch.testing.assert_close(local_similarity(regions, longer, padded), similarity)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(local_similarity(regions, words[order], mask[order]), similarity[:, order])


def test_chunks_hold_every_caption_once_and_keep_to_their_size_and_padding():
    lengths = torch.tensor([8, 20, 1, 16, 17, 1, 2, 16])
    mask = torch.arange(20) < lengths[:, None]
    chunks, images = _chunks(mask, 10, 350)  # 35 words at once
    taken = [lengths[captions].tolist() for captions, _ in chunks]
    assert taken == [[1, 1], [2], [8], [16, 16], [17], [20]]
    assert sorted(torch.cat([captions for captions, _ in chunks]).tolist()) == list(range(8))
    assert [longest for _, longest in chunks] == [max(group) for group in taken] and images == 1
    assert _chunks(mask, 10, 3500)[1] == 3500 // (3 * 17 * 10)


@pytest.mark.parametrize("aggregate", ["sum", "mean", "max"])
@pytest.mark.parametrize("chunking", CHUNKINGS)
def test_the_written_derivatives_are_those_of_finite_differences(aggregate, chunking):
    regions, words, mask = random_features()

    def similarity(regions, words):
        return local_similarity(regions, words, mask, aggregate=aggregate, **chunking)

    assert torch.autograd.gradcheck(similarity, (regions.requires_grad_(), words.requires_grad_()))


def test_a_loss_can_be_derived_from_twice_whether_scores_are_kept_or_not():
    regions, words, mask = random_features(captions=3)
    regions.requires_grad_()
    for kept in (0, 2**20):
        loss = sum(gloria_local_loss(regions, words, mask, kept_scores=kept))
        first, second = (torch.autograd.grad(loss, regions, retain_graph=True)[0] for _ in range(2))
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_images_of_zeros_give_finite_gradients():
    regions, words, mask = random_features(captions=3)
    regions = torch.zeros_like(regions).requires_grad_()
    sum(gloria_local_loss(regions, words, mask)).backward()
    assert torch.isfinite(regions.grad).all()


def test_impossible_batches_are_refused():
    regions, words, mask = random_features()
    with pytest.raises(ValueError, match="3 images and 4 captions"):
        gloria_local_loss(regions, words, mask)
    with pytest.raises(ValueError, match="batch size of 2 or more"):
        gloria_local_loss(regions[:1], words[:1], mask[:1])
    with pytest.raises(ValueError, match="1 of 4 captions have no word"):
        local_similarity(regions, words, mask & (torch.arange(4) != 1)[:, None])
    with pytest.raises(ValueError, match="'median'"):
        local_similarity(regions, words, mask, aggregate="median")
