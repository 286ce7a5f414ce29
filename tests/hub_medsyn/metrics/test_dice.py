"""Dice by hand, as the published code counts it, and through `evaluate` in pieces."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

from hub_medsyn.metrics import dice as module
from hub_medsyn.metrics.dice import Dice, dice, mask_counts, official_dice

EMPTY, HALF = np.zeros((2, 4)), np.array([[1, 1, 0, 0], [1, 1, 0, 0]])
ROW = np.array([[1, 1, 1, 1], [0, 0, 0, 0]])
# true, predicted, Dice: half and a row share 2 of 4 + 4 pixels
CASES = [(HALF, HALF, 1.0), (HALF, ROW, 0.5), (HALF, EMPTY, 0.0), (EMPTY, ROW, 0.0), (EMPTY, EMPTY, 1.0)]
TRUE, PREDICTED, EXPECTED = zip(*CASES, strict=True)


def test_by_hand():
    counts = mask_counts(PREDICTED, TRUE)
    assert counts.tolist() == [[4, 4, 4], [2, 4, 4], [0, 0, 4], [0, 4, 0], [0, 0, 0]]
    assert dice(counts).tolist() == list(EXPECTED)
    assert dice(counts.sum(axis=0)) == 2 * 6 / (12 + 12)
    assert official_dice(dice(counts), np.array([0, 0, 0, 0, 1])) == ((1 + 0.5 + 0 + 0) / 4 + 1) / 2


def test_equals_the_golden_numbers(golden):
    with np.load(golden / "segmentation_loss_f32.npz") as numbers:
        probability = torch.tensor(numbers["logit"]).sigmoid()
        counts = mask_counts(probability, numbers["target"])
        np.testing.assert_allclose(dice(counts), numbers["per_sample_dice"], rtol=1e-6)
        np.testing.assert_allclose(dice(counts).mean(), numbers["batch_dice"], rtol=1e-6)


@pytest.mark.parametrize(
    "kind",
    [np.asarray, torch.as_tensor, lambda masks: [mask[None] > 0 for mask in masks]],
    ids=["numpy", "torch", "list"],
)
def test_inputs_of_every_kind(kind):
    assert dice(mask_counts(kind(np.stack(PREDICTED)), kind(np.stack(TRUE)))).tolist() == list(EXPECTED)


def test_one_half_is_outside():
    assert mask_counts([np.array([[0.5, 0.5001]])], [np.array([[1, 1]])]).tolist() == [[1, 1, 2]]
    assert mask_counts([torch.tensor([[0.4, 0.6]], dtype=torch.bfloat16)], [torch.tensor([[0, 1]])]).tolist() == [
        [1, 1, 1]
    ]


def test_as_an_evaluate_module_from_its_file():
    metric = evaluate.load(str(Path(module.__file__)))
    whole = metric.compute(predictions=np.stack(PREDICTED), references=np.stack(TRUE))
    assert whole == {"dice_per_image": 0.5, "dice_dataset": 0.5}
    for _ in range(2):  # a second use starts anew
        metric.add_batch(predictions=PREDICTED[:4], references=TRUE[:4])
        metric.add_batch(predictions=[np.ones((9, 5))], references=[np.ones((9, 5))])  # of another size
        assert metric.compute(rule="official") == {"dice_official": ((1 + 0.5) / 4 + 1) / 2}


def test_pieces_add_up_to_the_whole():
    rng = np.random.default_rng(0)
    predicted, true = rng.random((23, 6, 7)), rng.random((23, 6, 7)) > 0.7
    whole = Dice().compute(predictions=predicted, references=true)
    pieces, single = Dice(), Dice()
    for start in range(0, 23, 5):
        pieces.add_batch(predictions=torch.tensor(predicted[start : start + 5]), references=true[start : start + 5])
    for one, other in zip(predicted, true, strict=True):
        single.add(prediction=one, reference=other)
    assert pieces.compute() == whole == single.compute()
    per_image = dice(mask_counts(predicted, true))
    assert whole["dice_per_image"] == pytest.approx(per_image.mean(), abs=1e-12)
    official = Dice().compute(predictions=predicted, references=true, rule="official", batch_size=5)
    expected = np.mean([per_image[start : start + 5].mean() for start in range(0, 23, 5)])
    assert official["dice_official"] == pytest.approx(expected, abs=1e-12)
    assert official["dice_official"] != pytest.approx(per_image.mean(), abs=1e-6)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="2 predicted masks and 1 true ones"):
        mask_counts([HALF, HALF], [HALF])
    with pytest.raises(ValueError, match=r"image 1: the predicted mask is \(2, 4\), the true one \(4, 2\)"):
        mask_counts([HALF, HALF], [HALF, HALF.T])
    with pytest.raises(ValueError, match="image 0: the prediction is not finite"):
        mask_counts([np.full((2, 2), np.nan)], [np.ones((2, 2))])
    with pytest.raises(ValueError, match="rule 'mean' is none of all, official"):
        Dice().compute(predictions=[HALF], references=[HALF], rule="mean")
    with pytest.raises(ValueError, match="batch_size 0"):
        Dice().compute(predictions=[HALF], references=[HALF], rule="official", batch_size=0)
    with pytest.raises(ValueError, match="batch_size 4"):
        Dice().compute(predictions=[HALF], references=[HALF], batch_size=4)
