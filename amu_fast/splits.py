"""The four parts of an unlearning problem, by row: retain, forget, validation and test.

Rows are what membership is about, so parts that share a base data set are compared by row index: two parts with a
common row make every later figure wrong, and are refused here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from amu_fast.errors import DataError
from amu_fast.rows import Part, Rows

__all__ = ["PARTS", "Part", "Rows", "Splits"]

PARTS = ("retain", "forget", "validation", "test")
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Splits:
    """Retain, forget, validation and (optionally) test rows of one problem.

    Args:
        retain: Training rows that the model may keep.
        forget: Training rows that it must lose (members, +1).
        validation: Rows that it never saw (non-members, -1), from the forget rows' own distribution.
        test: Rows for the final figures only; no method touches them.

    Each part is a tuple `(inputs, labels)` of tensors, a map-style data set or a DataLoader (its data set, collate
    function and subset of rows are used; its batching and order are not).

    Raises:
        DataError: An empty part, a row in two parts or twice in one, labels that are not whole numbers, or parts whose
            rows differ in shape or dtype.

    >>> inputs, labels = torch.randn(10, 3), torch.arange(10) % 2
    >>> splits = Splits.from_indices((inputs, labels), retain=range(6), forget=[6, 7], validation=[8, 9])
    >>> len(splits.rows("retain")), len(splits.rows("forget"))
    (6, 2)
    """

    retain: Part
    forget: Part
    validation: Part
    test: Part | None = None
    _rows: dict[str, Rows] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parts = {name: getattr(self, name) for name in PARTS}
        rows = {name: Rows.of(part, name) for name, part in parts.items() if part is not None}
        for name, part in rows.items():
            _check_part(name, part)
        for first, second in combinations(rows, 2):
            _check_disjoint(rows[first], rows[second])
            _check_alike(rows[first], rows[second])
        object.__setattr__(self, "_rows", rows)

    @classmethod
    def from_indices(
        cls,
        data: Any,
        *,
        retain: Sequence[int] | Tensor,
        forget: Sequence[int] | Tensor,
        validation: Sequence[int] | Tensor,
        test: Sequence[int] | Tensor | None = None,
    ) -> Splits:
        """Cut one map-style data set, or one tuple `(inputs, labels)`, into parts by row index.

        Raises:
            DataError: As for `Splits`, and indices outside the data set.
        """
        size = len(Rows.of(data, "data"))
        base = TensorDataset(*data) if isinstance(data, tuple) else data
        given = {"retain": retain, "forget": forget, "validation": validation, "test": test}
        parts = {name: Subset(base, _indices(name, index, size)) for name, index in given.items() if index is not None}
        return cls(**parts)

    def rows(self, name: str) -> Rows:
        """The rows of the part called `name`; DataError if it is absent."""
        if name not in self._rows:
            raise DataError(f"this Splits has no part {name!r} (it has {', '.join(self._rows)}); pass {name}=...")
        return self._rows[name]

    def split_validation(self, seed: int = 0, fraction: float = 0.5) -> tuple[Rows, Rows]:
        """Cut the validation rows into V_game (the game's non-members) and V_tune (selection and stopping), S16.

        Args:
            seed: Fixes the cut; it is not the seed of an unlearning run, so that V_tune stays untouched by all of them.
            fraction: Share of the rows that goes to V_game, strictly between 0 and 1.

        Returns:
            `(V_game, V_tune)`: disjoint, both non-empty.
        """
        rows = self.rows("validation")
        count = round(fraction * len(rows))
        if not 0.0 < fraction < 1.0 or not 0 < count < len(rows):
            raise DataError(
                f"fraction {fraction} leaves V_game or V_tune empty with {len(rows)} validation rows; use a "
                "fraction between 0 and 1 and at least 2 validation rows"
            )
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        return rows.take(order[:count].sort().values, "V_game"), rows.take(order[count:].sort().values, "V_tune")


def _indices(name: str, index: Sequence[int] | Tensor, size: int) -> list[int]:
    """Row numbers as a list of ints inside [0, size)."""
    values = torch.as_tensor(index if isinstance(index, Tensor) else list(index))
    if values.numel() == 0:
        raise DataError(f"{name} is empty: 0 row indices were given; each part needs at least one row")
    if values.ndim != 1 or values.dtype == torch.bool or values.dtype.is_floating_point:
        raise DataError(
            f"{name} indices have dtype {values.dtype} and shape {tuple(values.shape)}; pass whole numbers in "
            "one dimension (for a mask: mask.nonzero().flatten())"
        )
    outside = values[(values < 0) | (values >= size)]
    if len(outside):
        raise DataError(
            f"{name} indices {outside[:_SHOWN].tolist()} lie outside the data set of {size} rows; use row "
            f"numbers from 0 to {size - 1}"
        )
    return [int(value) for value in values.tolist()]


def _check_part(name: str, rows: Rows) -> None:
    if len(rows) == 0:
        raise DataError(f"{name} is empty (0 rows); each part needs at least one row")
    values, counts = rows.base_index().unique(return_counts=True)
    twice = values[counts > 1]
    if len(twice):
        raise DataError(
            f"{name} lists {len(twice)} rows more than once, among them {twice[:_SHOWN].tolist()}; "
            "remove the duplicates"
        )


def _check_disjoint(first: Rows, second: Rows) -> None:
    if first.base_key != second.base_key:
        return
    mine, other = first.base_index(), second.base_index()
    shared = mine[torch.isin(mine, other)]
    if len(shared):
        raise DataError(
            f"{first.name} and {second.name} share {len(shared)} rows, among them "
            f"{shared.sort().values[:_SHOWN].tolist()}; a row belongs to one part only"
        )


def _check_alike(first: Rows, second: Rows) -> None:
    if first.row_type is None or second.row_type is None or first.row_type == second.row_type:
        return
    raise DataError(
        f"{first.name} rows are {first.row_type} and {second.name} rows are {second.row_type}; give all "
        "parts the same shape and dtype"
    )
