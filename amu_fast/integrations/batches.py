"""Which rows each micro-batch has: a function of its number and the seed, so that a run can go on anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.unlearn.streams import generator


class Order:
    """Rows of every micro-batch of all ranks together.

    Retain rows come in shuffled passes; a batch crosses into the next pass, so that each row is seen equally often.
    Forget and validation batches hold no row twice: the tail of a pass that fills no batch is dropped.

    Args:
        rows: Number of rows of each part.
        needs: Parts of the batches of each optimiser step.
        retain_batch: Retain rows of a micro-batch.
        audit_batch: Forget rows, and validation rows, of a micro-batch.
        accumulation: Micro-batches of an optimiser step; the last step of an epoch may have fewer.
        pooled: The auditing rows of one optimiser step are one batch, cut among its micro-batches.
        ranks: Processes; each gets a row of each part at least.
        seed: Decides the order.

    Raises:
        DataError: A size below 1, or too few rows for the ranks.

    >>> order = Order({"retain": 5}, lambda step: ("retain",), retain_batch=2, audit_batch=1)
    >>> rows = [row for position in range(5) for row in order.batch(0, position)["retain"].tolist()]
    >>> order.epoch_length, sorted(rows) == sorted([*range(5)] * 2)
    (3, True)
    """

    def __init__(
        self,
        rows: Mapping[str, int],
        needs: Callable[[int], tuple[str, ...]],
        *,
        retain_batch: int,
        audit_batch: int,
        accumulation: int = 1,
        pooled: bool = False,
        ranks: int = 1,
        seed: int = 0,
    ) -> None:
        for name, size in (
            ("retain_batch", retain_batch),
            ("audit_batch", audit_batch),
            ("accumulation", accumulation),
        ):
            if size < 1:
                raise DataError(f"{name} must be >= 1, got {size}")
        self._rows, self._needs, self.seed = dict(rows), needs, seed
        self.accumulation, self.pooled, self.ranks = accumulation, pooled, ranks
        self.retain_batch = min(retain_batch, rows["retain"])
        self._audit_batch = {name: min(audit_batch, count) for name, count in rows.items()}
        pieces = ranks * (accumulation if pooled else 1)
        for name, count in rows.items():
            size = self.retain_batch if name == "retain" else self._drawn(name)
            least = ranks if name == "retain" else pieces
            if size < least:
                raise DataError(
                    f"a batch of {size} {name} rows is too small for {ranks} ranks and {least // ranks} micro-batches "
                    f"({count} rows there); use larger batches, more rows or fewer ranks"
                )
        self._passes: dict[str, tuple[int, Tensor]] = {}
        self._draws: dict[str, list[int]] = {name: [0] for name in rows}

    @property
    def epoch_length(self) -> int:
        """Micro-batches of an epoch: one pass over retain, the last batch filled up."""
        return -(-self._rows["retain"] // self.retain_batch)

    def step(self, epoch: int, position: int) -> int:
        """Number of the optimiser step, from 0."""
        return epoch * -(-self.epoch_length // self.accumulation) + position // self.accumulation

    def window(self, position: int) -> int:
        """Micro-batches of the optimiser step to which a position of an epoch belongs."""
        first = position - position % self.accumulation
        return min(self.accumulation, self.epoch_length - first)

    def retain(self, number: int) -> Tensor:
        """Retain rows of the micro-batch of this number, counted from 0 over all epochs."""
        size, count = self.retain_batch, self._rows["retain"]
        turn, place = divmod(number * size, count)
        taken = self._permutation("retain", turn)[place : place + size]
        if len(taken) == size:
            return taken
        return torch.cat([taken, self._permutation("retain", turn + 1)[: size - len(taken)]])

    def batch(self, epoch: int, position: int, rank: int = 0) -> dict[str, Tensor]:
        """This rank's rows of each part that the micro-batch needs, (n,) int64.

        Args:
            epoch: From 0.
            position: Micro-batch of the epoch, from 0.
            rank: Its rows are a contiguous slice of everybody's.
        """
        step, at = self.step(epoch, position), position % self.accumulation
        window = self.window(position)
        found = {}
        for name in self._needs(step):
            if name == "retain":
                found[name] = _share(self.retain(epoch * self.epoch_length + position), rank, self.ranks)
                continue
            earlier = self._earlier(name, step)
            if self.pooled:
                rows = self._distinct(name, earlier)[: self._audit_batch[name] * window]
                found[name] = _share(_share(rows, rank, self.ranks), at, window)
            else:
                found[name] = _share(self._distinct(name, earlier + at), rank, self.ranks)
        return found

    def _drawn(self, name: str) -> int:
        """Rows of one draw."""
        size = self._audit_batch[name]
        return min(size * self.accumulation, self._rows[name]) if self.pooled else size

    def _distinct(self, name: str, draw: int) -> Tensor:
        size = self._drawn(name)
        turn, place = divmod(draw, self._rows[name] // size)
        return self._permutation(name, turn)[place * size : (place + 1) * size]

    def _earlier(self, name: str, step: int) -> int:
        """Draws of a part before this optimiser step."""
        counts, per_epoch = self._draws[name], self.step(1, 0)
        while len(counts) <= step:
            before = len(counts) - 1
            drawn = 1 if self.pooled else self.window(before % per_epoch * self.accumulation)
            counts.append(counts[-1] + (drawn if name in self._needs(before) else 0))
        return counts[step]

    def _permutation(self, name: str, turn: int) -> Tensor:
        if name not in self._passes or self._passes[name][0] != turn:
            rng = generator(self.seed, f"{name}/{turn}")
            self._passes[name] = turn, torch.randperm(self._rows[name], generator=rng)
        return self._passes[name][1]


class MicroBatches:
    """The batch sampler of one rank: for each micro-batch of an epoch the (part, row) keys of its rows.

    Args:
        order: Rows of all ranks.
        rank: Whose slice.
    """

    def __init__(self, order: Order, rank: int = 0) -> None:
        self.order, self.rank, self.epoch = order, rank, 0

    def __len__(self) -> int:
        return self.order.epoch_length

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[tuple[str, int]]]:
        for position in range(len(self)):
            parts = self.order.batch(self.epoch, position, self.rank)
            yield [(name, row) for name, rows in parts.items() for row in rows.tolist()]


def _share(rows: Tensor, number: int, shares: int) -> Tensor:
    """The contiguous slice that share `number` of `shares` gets."""
    return rows[len(rows) * number // shares : len(rows) * (number + 1) // shares]


def share_of(rows: int, number: int, shares: int) -> range:
    """The same slice of `range(rows)`."""
    return range(rows * number // shares, rows * (number + 1) // shares)
