"""What a comparison is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from amu_fast.errors import DataError
from amu_fast.experiments.compare.spaces import OURS, spaces
from amu_fast.experiments.forget_sets import ClassRows, ForgetSet, MemorisedRows, MislabelledRows, RandomRows
from amu_fast.experiments.tasks import TABLE_TASK, ForgetTask, Task

if TYPE_CHECKING:
    from amu_fast.experiments.compare.spaces import Space


@dataclass(frozen=True)
class ComparePlan:
    """Methods × forget sets × budgets, on units.

    Attributes:
        task: What its units share.
        forget_sets: Kinds of forget rows; class 6 of Fashion-MNIST, shirts, is the one that networks confuse most.
        units: Judged.
        tuning_units: Where methods are tuned.
        shares: Budgets, shares of retraining's gradient samples.
        methods: Names of spaces.
        trials: Configurations of each search.
        sensitivity: The budget at which weights are halved and doubled; None: nowhere.
    """

    task: Task = TABLE_TASK
    forget_sets: tuple[ForgetSet, ...] = (RandomRows(0.02), RandomRows(0.1), ClassRows(0.5, 6))
    units: tuple[int, ...] = tuple(range(10))
    tuning_units: tuple[int, ...] = (900, 901)
    shares: tuple[float, ...] = (0.01, 0.05, 0.125, 0.5)
    methods: tuple[str, ...] = tuple(space.name for space in OURS)
    trials: int = 12
    sensitivity: float | None = 0.05

    def __post_init__(self) -> None:
        known = spaces()
        unknown = [name for name in self.methods if name not in known]
        if unknown or not self.methods:
            raise DataError(f"methods must be among {', '.join(known)}, got {', '.join(unknown) or 'none'}")
        if set(self.units) & set(self.tuning_units):
            raise DataError(f"units {sorted(set(self.units) & set(self.tuning_units))} are tuned on and judged; do one")
        if len(self.units) < 2 or not self.tuning_units or not self.forget_sets:
            raise DataError("a comparison needs at least 2 judged units, 1 tuning unit and 1 forget set")
        if not self.shares or not all(0.0 < share <= 1.0 for share in self.shares):
            raise DataError(f"budgets are shares of retraining in (0, 1], got {self.shares}; .05 is 5 %")

    def task_of(self, forget_set: ForgetSet) -> ForgetTask:
        """The task with these forget rows."""
        return self.task.with_forget_set(forget_set)

    def rows(self, share: float, task: Task) -> tuple[Space, ...]:
        """Methods that this budget pays for."""
        known = spaces()
        return tuple(known[name] for name in self.methods if known[name].affordable(share, task))


def quick(plan: ComparePlan) -> ComparePlan:
    """About ten minutes on two cores: one forget set, one budget, two units, few configurations, no sensitivity."""
    smaller = replace(plan.task, train=4_000, epochs=10.0, test=2_000, validation=1_000)
    return replace(
        plan,
        task=smaller,
        forget_sets=plan.forget_sets[:1],
        units=(0, 1),
        tuning_units=(900,),
        shares=(0.05,),
        trials=3,
        sensitivity=None,
    )


def forget_set(text: str) -> ForgetSet:
    """The kind that a word names: random:0.02, class:6:0.5 (half of class 6), memorised:0.02, mislabelled:0.02.

    >>> forget_set("class:6:0.5")
    ClassRows(share=0.5, label=6, kind='class')
    """
    kind, *numbers = text.split(":")
    try:
        if kind == "class" and len(numbers) == 2:
            return ClassRows(float(numbers[1]), int(numbers[0]))
        if kind in _BY_SHARE and len(numbers) == 1:
            return _BY_SHARE[kind](float(numbers[0]))
    except ValueError as error:
        raise DataError(f"forget set {text!r}: {error}") from error
    raise DataError(
        f"forget set {text!r} is not known; use random:SHARE, class:LABEL:SHARE, memorised:SHARE or mislabelled:SHARE"
    )


_BY_SHARE: dict[str, Callable[[float], ForgetSet]] = {
    "random": RandomRows,
    "memorised": MemorisedRows,
    "mislabelled": MislabelledRows,
}
