"""Batches never hold a text twice, use all they can, and depend on seed and epoch alone."""

import numpy as np
import pytest

from trainers.data.samplers import DistinctTextBatchSampler, WholeBatches


def rows_of(sampler):
    return [[row for _, row in batch] for batch in sampler]


@pytest.mark.parametrize("counts", [[1] * 20, [6] + [1] * 18, [9, 7, 5, 1, 1, 1], [3, 3, 3, 3], [40, 2, 2, 2, 1]])
@pytest.mark.parametrize("batch_size", [2, 4])
def test_no_text_twice_in_a_batch_and_no_row_twice_in_an_epoch(counts, batch_size):
    texts = [f"text {number}" for number, count in enumerate(counts) for _ in range(count)]
    sampler = DistinctTextBatchSampler(texts, batch_size, seed=3)
    for epoch in range(3):
        sampler.epoch = epoch
        batches = rows_of(sampler)
        assert len(batches) == len(sampler)
        assert all(len({texts[row] for row in batch}) == batch_size == len(batch) for batch in batches)
        used = [row for batch in batches for row in batch]
        assert len(set(used)) == len(used) == len(texts) - sampler.rows_waiting


def test_as_many_batches_as_the_texts_allow():
    def batches(counts, size):
        texts = [number for number, count in enumerate(counts) for _ in range(count)]
        return len(DistinctTextBatchSampler([str(text) for text in texts], size))

    assert batches([1] * 21, 4) == 5  # nothing repeats: whole batches of a plain shuffle
    assert batches([10, 10], 2) == 10
    assert batches([10, 1, 1, 1], 2) == 3  # the common text meets each of the others once
    assert batches([5, 5, 5, 5], 3) == 6


def test_epochs_differ_and_repeat():
    texts = [str(number // 2) for number in range(40)]
    sampler, again = (DistinctTextBatchSampler(texts, 4, seed=1) for _ in range(2))
    first = list(sampler)
    assert first == list(again) == list(sampler)
    sampler.epoch = again.epoch = 1
    second = list(sampler)
    assert second == list(again) and {epoch for batch in second for epoch, _ in batch} == {1}
    assert rows_of(sampler) != [[row for _, row in batch] for batch in first]
    assert list(DistinctTextBatchSampler(texts, 4, seed=2)) != first


def test_partners_are_mixed_over_epochs():
    sampler = DistinctTextBatchSampler([str(number) for number in range(12)], 3, seed=0)
    partners = set()
    for epoch in range(40):
        sampler.epoch = epoch
        partners |= {row for batch in rows_of(sampler) if 0 in batch for row in batch}
    assert partners == set(range(12))


def test_evaluation_batches_do_not_change():
    sampler = DistinctTextBatchSampler([str(number) for number in range(12)], 3, shuffle=False)
    first = rows_of(sampler)
    sampler.epoch = 5
    assert rows_of(sampler) == first


def test_collisions_that_it_keeps_apart():
    half = DistinctTextBatchSampler(["same"] * 50 + [str(number) for number in range(50)], 10, seed=0)
    # A plain batch of 10 holds about 5 of the repeated text, 4 of them too many.
    assert half.collisions_of_a_plain_shuffle() == pytest.approx(0.4, abs=0.1)
    assert DistinctTextBatchSampler([str(number) for number in range(50)], 10).collisions_of_a_plain_shuffle() == 0


@pytest.mark.parametrize(
    ("texts", "batch_size", "message"),
    [
        (["a", "b"], 1, "batch of 1 has no negatives"),
        (["a"] * 9, 2, "9 rows hold 1 different texts"),
        ([], 2, "0 rows hold 0 different texts"),
    ],
)
def test_impossible_batches_are_refused(texts, batch_size, message):
    with pytest.raises(ValueError, match=message):
        DistinctTextBatchSampler(texts, batch_size)


class Counted(str):
    """A key that counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other):
        Counted.comparisons += 1
        return super().__lt__(other)


def test_work_on_large_sets_is_that_of_one_sort():
    number = 100_000
    keys = np.random.default_rng(0).zipf(1.5, number)
    Counted.comparisons = 0
    sampler = DistinctTextBatchSampler([Counted(key) for key in keys], 48)
    assert sum(1 for _ in sampler) == len(sampler) > 100
    assert number <= Counted.comparisons < 3 * number * np.log2(number)


@pytest.mark.parametrize(("rows", "size"), [(103, 32), (96, 32), (2, 2), (33, 32), (5, 99), (7, 3)])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_whole_batches_hold_every_row_once_on_any_number_of_processes(rows, size, processes):
    whole = WholeBatches([f"text {row}" for row in range(rows)], size)
    sizes = [len(batch) for batch in whole.batches]
    assert sorted(sum(whole.batches, [])) == list(range(rows)) and whole.rows_left_out == 0
    assert max(sizes) <= size and max(sizes) - min(sizes) <= 1 and min(sizes) >= 2
    parts = [whole.slices(process, processes) for process in range(processes)]
    for number, batch in enumerate(whole.batches):
        assert len({len(part[number]) for part in parts}) == 1
        assert sum((part[number] for part in parts), [])[: len(batch)] == batch  # what is repeated comes last


def test_whole_batches_keep_equal_texts_apart_and_say_what_repeats_too_often():
    texts = ["a"] * 6 + ["b"] * 3 + [f"text {row}" for row in range(31)]
    whole = WholeBatches(texts, 10)  # 4 batches would do; "a" makes them 6
    assert len(whole.batches) == 6 and whole.rows_left_out == 0 and whole.num_rows == 40
    for batch in whole.batches:
        assert len({texts[row] for row in batch}) == len(batch)
    often = WholeBatches(["a"] * 30 + [f"text {row}" for row in range(10)], 10)
    assert len(often.batches) == 8 and often.rows_left_out == 22 and often.num_rows == 18
    with pytest.raises(ValueError, match="cannot be evaluated: a contrastive loss needs at least 2 texts"):
        WholeBatches(["a", "a"], 10)
