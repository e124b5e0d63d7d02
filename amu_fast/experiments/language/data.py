"""Rows of a language task as tensors, and batches of them in an order that only the seed decides."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.unlearn.streams import ShuffledIndices, generator

Part = Mapping[str, Tensor]


def take(part: Part, index: Tensor) -> dict[str, Tensor]:
    """The rows `index` (k,) of every tensor of a part."""
    return {key: value[index] for key, value in part.items()}


def size(part: Part) -> int:
    """Rows of a part."""
    return len(part["labels"])


def of_clusters(part: Part, clusters: Tensor) -> dict[str, Tensor]:
    """The rows whose cluster is among `clusters` (c,), in their order."""
    return take(part, torch.isin(part["clusters"], clusters).nonzero().squeeze(-1))


def joined(*parts: Part) -> dict[str, Tensor]:
    """The rows of all parts, one after another."""
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def trimmed(part: Part) -> dict[str, Tensor]:
    """Without the columns that are padding in every row: shorter rows cost less."""
    longest = int(part["attention_mask"].sum(-1).max())
    return {key: value[:, :longest] if value.dim() == 2 else value for key, value in part.items()}


class Batches:
    """Endless shuffled passes over a part.

    Args:
        part: Rows, padded on the right to one length.
        batch_size: Rows a batch; at most `size(part)` are used.
        seed: With `name`, fixes the order.
        name: Of the stream; streams of one seed do not move one another.
        distinct: No batch holds a row twice, see `amu_fast.unlearn.streams.ShuffledIndices`.
    """

    def __init__(self, part: Part, batch_size: int, seed: int, name: str, *, distinct: bool = False) -> None:
        if size(part) == 0:
            raise DataError(f"{name} has 0 rows; it needs at least one")
        self._part = part
        self._indices = ShuffledIndices(size(part), batch_size, generator(seed, name), distinct=distinct)

    def next(self) -> dict[str, Tensor]:
        """The next batch, trimmed."""
        return trimmed(take(self._part, self._indices.next()))
