"""What is searched of a method in the comparison, and the point where its search begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from amu_fast.errors import DataError
from amu_fast.experiments.tasks import Task

Parameters = Mapping[str, float]
Build = Callable[[Parameters, float, Task], Any]


@dataclass(frozen=True)
class Axis:
    """One searched number, on a log scale.

    Attributes:
        low: Smallest, > 0.
        high: Largest.
        whole: Whole numbers only.
        most: A value that it may not pass when it is doubled, if there is one.
    """

    low: float
    high: float
    whole: bool = False
    most: float = float("inf")

    def __post_init__(self) -> None:
        if not 0.0 < self.low < self.high:
            raise DataError(f"an axis needs 0 < low < high, got {self.low} and {self.high}")


@dataclass(frozen=True)
class Space:
    """A method with what is searched of it.

    Attributes:
        name: Row of the table.
        title: As it is printed.
        build: From parameters, budget in retain-set sizes and task to a method.
        axes: By parameter.
        start: The first configuration.
        weight: The parameter whose half and double are tried afterwards: how strongly it unlearns.
        needs: Retain-set sizes below which the method cannot run, as a function of the task.
    """

    name: str
    title: str
    build: Build
    axes: Mapping[str, Axis]
    start: Parameters
    weight: str
    needs: Callable[[Task], float] = lambda task: 0.0

    def __post_init__(self) -> None:
        if set(self.start) != set(self.axes) or self.weight not in self.axes:
            raise DataError(f"{self.name}: start and weight must name its axes {sorted(self.axes)}, got {self.start}")

    def affordable(self, share: float, task: Task) -> bool:
        """Whether the budget pays for a run at all."""
        return share * task.epochs >= self.needs(task)
