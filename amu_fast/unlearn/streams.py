"""Endless batches of rows in an order that only the seed and the stream's name decide."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from amu_fast.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from amu_fast.rows import Rows

__all__ = [
    "BatchStream",
    "Fetches",
    "Joined",
    "Redrawn",
    "Relabelled",
    "ShuffledIndices",
    "any_label",
    "generator",
    "relabel",
]


class Fetches(Protocol):
    """What a stream draws from: `Rows` or two of them joined."""

    def __len__(self) -> int: ...

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels at these positions."""


def generator(seed: int, stream: str) -> torch.Generator:
    """A CPU generator of its own for each (seed, stream): a stream that draws more does not move the others."""
    if seed < 0:
        raise DataError(f"seed must be >= 0, got {seed}")
    state = np.random.SeedSequence((seed, zlib.crc32(stream.encode()))).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


class ShuffledIndices:
    """Endless batches of row numbers: shuffled passes over `rows` rows.

    Args:
        rows: How many there are.
        batch_size: Rows a batch, >= 1; at most `rows` are used.
        rng: CPU generator of the order.
        distinct: True: the tail of a pass that fills no batch is dropped, so that no batch holds a row twice (an
            auditing batch must not: one copy would train the attack and the other judge it). False: a batch crosses
            into the next pass, so that every row is seen equally often.

    Raises:
        DataError: batch_size < 1.
    """

    def __init__(self, rows: int, batch_size: int, rng: torch.Generator, *, distinct: bool = False) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size must be >= 1, got {batch_size}")
        self.rows, self.batch_size = rows, min(batch_size, rows)
        self._rng, self._distinct = rng, distinct
        self._order = torch.empty(0, dtype=torch.int64)
        self._at = 0

    def next(self) -> Tensor:
        """(b,) row numbers of the next batch."""
        taken = self._order[self._at : self._at + self.batch_size]
        self._at += self.batch_size
        missing = self.batch_size - len(taken)
        if missing == 0:
            return taken
        self._order = torch.randperm(self.rows, generator=self._rng)
        if self._distinct:
            missing, taken = self.batch_size, taken[:0]
        self._at = missing
        return torch.cat([taken, self._order[:missing]])


class BatchStream:
    """Batches of shuffled passes over rows.

    Args:
        rows: Where batches come from.
        batch_size: Rows a batch; at most `len(rows)` are used.
        rng: CPU generator of the order.
        device: Where batches go.
        distinct: See `ShuffledIndices`.
    """

    def __init__(
        self, rows: Fetches, batch_size: int, rng: torch.Generator, device: torch.device, *, distinct: bool = False
    ) -> None:
        self._indices = ShuffledIndices(len(rows), batch_size, rng, distinct=distinct)
        self.batch_size = self._indices.batch_size
        self._rows, self._device = rows, device

    @property
    def batches_per_pass(self) -> int:
        """Full batches in one pass."""
        return len(self._rows) // self.batch_size

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batch: inputs (b, ...) and labels (b,) on the stream's device."""
        inputs, labels = self._rows.fetch(self._indices.next())
        return inputs.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)


class Joined:
    """Rows of two parts as one, those of the first in front."""

    def __init__(self, first: Fetches, second: Fetches) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels at these positions, those of the first part in front."""
        cut = len(self._first)
        mine, other = indices[indices < cut], indices[indices >= cut] - cut
        if len(other) == 0:
            return self._first.fetch(mine)
        if len(mine) == 0:
            return self._second.fetch(other)
        (inputs, labels), (more_inputs, more_labels) = self._first.fetch(mine), self._second.fetch(other)
        return torch.cat([inputs, more_inputs]), torch.cat([labels, more_labels.to(labels.device)])


class Relabelled:
    """Rows under other labels (n,)."""

    def __init__(self, rows: Rows, labels: Tensor) -> None:
        self._rows, self._labels = rows, labels

    def __len__(self) -> int:
        return len(self._rows)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs as they are, labels as given."""
        inputs, _ = self._rows.fetch(indices)
        return inputs, self._labels[indices].to(inputs.device)


class Redrawn:
    """Rows whose labels are drawn anew at each access, as `draw(true labels)` says."""

    def __init__(self, rows: Rows, draw: Callable[[Tensor], Tensor]) -> None:
        self._rows, self._draw = rows, draw

    def __len__(self) -> int:
        return len(self._rows)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs as they are, fresh labels."""
        inputs, labels = self._rows.fetch(indices)
        return inputs, self._draw(labels).to(inputs.device)


def relabel(labels: Tensor, classes: int, rng: torch.Generator) -> Tensor:
    """(n,) labels drawn once, uniformly over the other classes: never the true one.

    Source: the variant of the saliency-unlearning release; others redraw at each access or allow the true label.
    """
    if classes < 2:
        raise DataError(f"random labels need at least 2 classes, the model has {classes} outputs")
    shift = torch.randint(1, classes, labels.shape, generator=rng)
    return (labels.cpu() + shift) % classes


def any_label(labels: Tensor, classes: int, rng: torch.Generator) -> Tensor:
    """(n,) labels drawn uniformly over all classes, the true one included."""
    return torch.randint(0, classes, labels.shape, generator=rng)
