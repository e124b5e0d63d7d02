"""Which rows each shadow model sees and which of them it unlearns: the layouts that the attacks ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from amu_fast.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

RowNumbers = Sequence[int] | Tensor


@dataclass(frozen=True, eq=False, init=False)
class ShadowSpec:
    """One shadow model.

    Attributes:
        seed: of its training and of its unlearning.
        train: row numbers of the fleet's data that it is trained on, kept sorted.
        forget: those among them that it then unlearns; none for a plain shadow model.
    """

    seed: int
    train: Tensor
    forget: Tensor

    def __init__(self, seed: int, train: RowNumbers, forget: RowNumbers = ()) -> None:
        object.__setattr__(self, "seed", int(seed))
        object.__setattr__(self, "train", row_numbers(train, "train"))
        object.__setattr__(self, "forget", row_numbers(forget, "forget"))
        if not len(self.train):
            raise DataError("a shadow model needs at least 1 training row, got 0")
        strange = self.forget[~torch.isin(self.forget, self.train)]
        if len(strange):
            raise DataError(f"{len(strange)} rows to forget were never trained on, among them {int(strange[0])}")
        if len(self.forget) == len(self.train):
            raise DataError(f"all {len(self.train)} training rows are to be forgotten; keep at least 1")


def row_numbers(rows: RowNumbers, name: str) -> Tensor:
    """Sorted int64 row numbers on the CPU, each once and >= 0, or a DataError."""
    values = torch.as_tensor(rows if isinstance(rows, Tensor) else list(rows))
    if not values.numel():
        return torch.empty(0, dtype=torch.int64)
    if values.ndim != 1 or values.dtype == torch.bool or values.dtype.is_floating_point:
        raise DataError(f"{name} must be row numbers in one dimension, got {values.dtype} {tuple(values.shape)}")
    ordered = values.detach().cpu().long().sort().values
    if int(ordered[0]) < 0 or bool((ordered[1:] == ordered[:-1]).any()):
        raise DataError(
            f"{name} must be row numbers >= 0, each once; got {int(ordered[0])} ... with repeats or below 0"
        )
    return ordered


def balanced_masks(rows: int, models: int, seed: int = 0) -> NDArray[np.bool_]:
    """(models, rows) bool: every row IN for exactly half of the models, every model with half of the rows.

    Models come in pairs, a random half of the rows and its complement (an odd row goes to either).

    >>> masks = balanced_masks(10, 4)
    >>> masks.sum(axis=0).tolist(), masks.sum(axis=1).tolist()
    ([2, 2, 2, 2, 2, 2, 2, 2, 2, 2], [5, 5, 5, 5])
    """
    if rows < 2 or models < 2 or models % 2:
        raise DataError(f"balanced masks need >= 2 rows and an even number of models >= 2, got {rows} and {models}")
    rng = np.random.default_rng(seed)
    halves = [rng.permutation(rows) < rows // 2 for _ in range(models // 2)]
    return np.stack([mask for half in halves for mask in (half, ~half)])


def lira_specs(rows: RowNumbers, models: int, *, always: RowNumbers = (), seed: int = 0) -> list[ShadowSpec]:
    """Plain shadow models, each judged row IN for half of them: for LiRA and online RMIA.

    Args:
        rows: the judged rows, members and non-members of the target alike.
        models: an even number.
        always: further rows that every model is trained on.
        seed: of the masks and, through them, of every model.
    """
    judged, masks, seeds = _layout(rows, models, seed)
    return [ShadowSpec(s, _union(always, judged[mask])) for s, mask in zip(seeds, masks, strict=True)]


def ulira_specs(rows: RowNumbers, models: int, *, retain: RowNumbers, seed: int = 0) -> list[ShadowSpec]:
    """Models for U-LiRA: trained on `retain` and a random half of the judged rows, which they then unlearn.

    For each row half of the models are the forgotten world, the others the never world, and those have unlearned too:
    the other half of the rows. Judge as many test rows as forget rows, so that the forget sets have the target's size.

    Args:
        rows: the judged rows, forget and test alike.
        models: an even number; 32 give the 16 pairs of S14.
        retain: rows that every model keeps.
        seed: of the masks and, through them, of every model.
    """
    judged, masks, seeds = _layout(rows, models, seed)
    return [ShadowSpec(s, _union(retain, judged[mask]), judged[mask]) for s, mask in zip(seeds, masks, strict=True)]


def leave_out_specs(train: RowNumbers, forget: RowNumbers, models: int, *, seed: int = 0) -> list[ShadowSpec]:
    """References that never saw the forget rows: `models` of them, on the other training rows, by different seeds."""
    if models < 1:
        raise DataError(f"models must be >= 1, got {models}")
    known, lost = row_numbers(train, "train"), row_numbers(forget, "forget")
    kept = known[~torch.isin(known, lost)]
    return [ShadowSpec(s, kept) for s in _seeds(seed, models)]


def _layout(rows: RowNumbers, models: int, seed: int) -> tuple[Tensor, list[Tensor], list[int]]:
    judged = row_numbers(rows, "rows")
    masks = [torch.from_numpy(mask) for mask in balanced_masks(len(judged), models, seed)]
    return judged, masks, _seeds(seed, models)


def _seeds(seed: int, count: int) -> list[int]:
    """Different for each model, and unlike those of neighbouring seeds."""
    drawn: Any = np.random.default_rng([seed, 1]).choice(2**31, count, replace=False)
    return [int(s) for s in drawn]


def _union(first: RowNumbers, second: Tensor) -> Tensor:
    return torch.cat([row_numbers(first, "rows kept by every model"), second])
