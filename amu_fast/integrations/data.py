"""The parts of an unlearning task as map-style data sets of dicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch.utils.data import Subset

from amu_fast.errors import DataError

GAME_PARTS = ("retain", "forget", "validation")


class RowsOf(Protocol):
    """A map-style data set: of torch, of the package datasets, or a list of dicts."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True, eq=False)
class UnlearnDatasets:
    """Rows that a model must keep, must forget and has never seen.

    A row is a dict of the model's inputs and `labels` (or `label`), and if wanted of the keys of
    `amu_fast.unlearn.objectives.AUXILIARY`: `clusters` says whose row it is.

    Args:
        retain: Rows to keep.
        forget: Rows to forget, members.
        validation: V_game, non-members from the forget rows' own distribution (docs/game.md section 8).
        test: T, non-members that nothing looks at before the end.
        tune: V_tune, non-members for stopping and selection (docs/statistics.md S16); `with_tune` cuts them off.

    Raises:
        DataError: A part is empty, or has no length.
    """

    retain: RowsOf
    forget: RowsOf
    validation: RowsOf
    test: RowsOf | None = None
    tune: RowsOf | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            rows = getattr(self, field.name)
            if rows is not None and not hasattr(rows, "__len__"):
                raise DataError(f"{field.name} is a {type(rows).__name__} without length; pass a map-style data set")
            if rows is not None and len(rows) == 0:
                raise DataError(f"{field.name} is empty (0 rows); each part needs at least one row")

    def part(self, name: str) -> RowsOf:
        """One part; DataError if it was not given."""
        rows = getattr(self, name, None)
        if rows is None:
            given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
            raise DataError(
                f"there are no {name} rows, only {', '.join(given)}; pass {name}=..., or call with_tune() to cut "
                "V_tune off validation"
            )
        return rows

    def with_tune(self, fraction: float = 0.5, seed: int = 0) -> UnlearnDatasets:
        """The same with `fraction` of validation as V_game and the rest as V_tune; a person is on one side.

        Reads every validation row once if rows have `clusters`.

        Raises:
            DataError: A side would be empty, or there is a V_tune already.
        """
        if self.tune is not None:
            raise DataError("these data sets have tune rows already; pass them, or let with_tune() cut them, not both")
        rows = range(len(self.validation))
        people = list(rows)
        if "clusters" in self.validation[0]:
            people = [int(self.validation[row]["clusters"]) for row in rows]
        names = sorted(set(people))
        count = round(fraction * len(names))
        if not 0.0 < fraction < 1.0 or not 0 < count < len(names):
            raise DataError(
                f"fraction {fraction} leaves V_game or V_tune empty with {len(names)} persons in validation; use a "
                "fraction between 0 and 1 and at least 2 persons"
            )
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
        game = {names[place] for place in order[:count]}
        sides = [[row for row in rows if (people[row] in game) == wanted] for wanted in (True, False)]
        dataset: Any = self.validation
        return replace(self, validation=Subset(dataset, sides[0]), tune=Subset(dataset, sides[1]))


class PartRows:
    """All parts as one data set whose index is (part, row); as long as retain, which decides what an epoch is."""

    def __init__(self, datasets: UnlearnDatasets) -> None:
        self._datasets = datasets

    def __len__(self) -> int:
        return len(self._datasets.retain)

    def __getitem__(self, key: tuple[str, int]) -> tuple[str, Mapping[str, Any]]:
        name, row = key
        return name, self._datasets.part(name)[row]
