"""Batches in which no two reports are the same: to a contrastive loss a repeated report is a false negative."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from medsyn.errors import UserError


class DistinctTextBatchSampler(Sampler[list[tuple[int, int]]]):
    """Global batches of distinct texts, reshuffled every epoch and equal on every process.

    An epoch has as many full batches as distinct texts allow: a text that stands in the data more often than there are
    batches is used once a batch, its other rows wait for another epoch, and so do the rows that fill no last batch.
    The repeats of a text are spread over the batches; which rows wait is drawn anew each epoch.

    Items are pairs `(epoch, row)`, so that whatever the dataset draws at random for a row can depend on the epoch
    without the dataset keeping one.

    Args:
        texts (`Sequence[str]`): One per row; equal strings never meet in a batch.
        batch_size (`int`): Of the global batch, over all processes.
        seed (`int`, *optional*, defaults to 0): Of the order.
        shuffle (`bool`, *optional*, defaults to `True`): `False` gives the same batches in every epoch.

    Raises:
        UserError: If there are not as many distinct texts as one batch holds, or the batch holds fewer than two.
    """

    def __init__(self, texts: Sequence[str], batch_size: int, seed: int = 0, shuffle: bool = True):
        if batch_size < 2:
            raise UserError(
                f"a batch of {batch_size} has no negatives: a contrastive loss needs at least 2 texts; "
                "raise the batch size"
            )
        _, self.groups = np.unique(np.asarray(texts, dtype=object), return_inverse=True)  # (rows,) number of the text
        counts = np.bincount(self.groups, minlength=1)
        if len(counts) < batch_size or len(texts) == 0:
            raise UserError(
                f"{len(texts)} rows hold {len(counts) if len(texts) else 0} different texts, and a batch takes "
                f"{batch_size} of them; lower the batch size or bring more reports"
            )
        self.batch_size = batch_size
        self.drop_last = True
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        batches = len(texts) // batch_size
        while np.minimum(counts, batches).sum() < batches * batch_size:
            batches -= 1
        self.num_batches = batches

    def __len__(self) -> int:
        return self.num_batches

    @property
    def rows_waiting(self) -> int:
        """Rows that an epoch leaves out."""
        return len(self.groups) - self.num_batches * self.batch_size

    def collisions_of_a_plain_shuffle(self) -> float:
        """Share of rows that meet an earlier equal text in their batch when this epoch's rows are merely shuffled."""
        order = self._generator().permutation(len(self.groups))
        whole = len(order) // self.batch_size * self.batch_size
        batches = self.groups[order[:whole]].reshape(-1, self.batch_size)
        distinct = sum(len(np.unique(batch)) for batch in batches)
        return 1 - distinct / whole

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = self._generator()
        order = generator.permutation(len(self.groups))  # rows
        rank = generator.permutation(self.groups.max() + 1)  # texts
        order = order[np.argsort(rank[self.groups[order]], kind="stable")]  # rows, those of a text side by side
        starts = np.flatnonzero(np.diff(self.groups[order], prepend=-1))
        position = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))  # within its text
        order = order[position < self.num_batches]
        keep = generator.permutation(len(order))[: self.num_batches * self.batch_size]
        order = order[np.sort(keep)]
        # Neighbours go to different batches, and a text has at most as many rows as there are batches.
        for batch in generator.permutation(order.reshape(self.batch_size, self.num_batches).T):
            yield [(self.epoch, int(row)) for row in generator.permutation(batch)]

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch if self.shuffle else 0])


class WholeBatches:
    """Batches of distinct texts in which every row is once: those of an evaluation, equal each time.

    They are as many as the batch size asks for and of nearly one size, so that no row is left over. A text that
    repeats more often than there are batches makes them more and smaller, down to half the batch size; what it repeats
    beyond is left out (`rows_left_out`).

    Args:
        texts (`Sequence[str]`): One per row; equal strings never meet in a batch.
        batch_size (`int`): The most rows of a global batch, over all processes.
        seed (`int`, *optional*, defaults to 0): Of the order.

    Raises:
        UserError: If there are fewer than two distinct texts, or the batch holds fewer than two.
    """

    def __init__(self, texts: Sequence[str], batch_size: int, seed: int = 0):
        _, groups, counts = np.unique(np.asarray(texts, dtype=object), return_inverse=True, return_counts=True)
        if batch_size < 2 or len(counts) < 2:
            raise UserError(
                f"{len(texts)} rows of {len(counts)} different texts in batches of {batch_size} cannot be evaluated: "
                "a contrastive loss needs at least 2 texts; raise the batch size or bring more reports"
            )
        batch_size = min(batch_size, len(counts))
        needed = -(-len(texts) // batch_size)
        number = max(needed, min(int(counts.max()), 2 * needed))
        generator = np.random.default_rng([seed, 0])
        order = generator.permutation(len(groups))  # rows
        rank = generator.permutation(len(counts))  # texts
        order = order[np.argsort(rank[groups[order]], kind="stable")]  # rows, those of a text side by side
        starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
        position = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))  # within its text
        order = order[position < number]
        # Neighbours go to different batches, and a text has at most as many rows as there are batches.
        self.batches = [order[batch::number].tolist() for batch in range(number)]
        self.rows_left_out = len(texts) - len(order)

    @property
    def num_rows(self) -> int:
        """Rows that are evaluated."""
        return sum(map(len, self.batches))

    def slices(self, process: int, processes: int) -> list[list[int]]:
        """Returns the part of every batch that a process encodes, of one length on all: its last row may repeat."""
        parts = []
        for batch in self.batches:
            length = -(-len(batch) // processes)
            part = batch[process * length : (process + 1) * length]
            parts.append(part + [(part or batch)[-1]] * (length - len(part)))
        return parts
