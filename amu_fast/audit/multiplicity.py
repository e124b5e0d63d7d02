"""Several claims at once (S9): Holm's step-down for "fails", intersection-union without correction for "meets".

Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65-70; Berger, Technometrics 24 (1982) 295-300.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from amu_fast.audit.intervals import Interval
from amu_fast.audit.metrics import as_scores
from amu_fast.errors import DataError

ALPHA = 0.05
"""Chance of calling any claim violated that is not, over all claims of the family."""

IntervalAt = Callable[[float], Interval]
"""An interval as a function of its level; a higher level contains a lower one."""


@dataclass(frozen=True, eq=False)
class IntervalTest:
    """One claim's test: its interval at any level, and whether an interval lies wholly outside its margin."""

    at: IntervalAt
    outside: Callable[[Interval], bool]


@dataclass(frozen=True)
class Step:
    """One claim under Holm's procedure.

    Attributes:
        interval: at the level at which it was decided, 1 - alpha/(claims left then).
        rejected: whether that interval lies wholly outside the claim's margin.
    """

    interval: Interval
    rejected: bool


def holm(p_values: Any) -> tuple[float, ...]:
    """Holm-adjusted p values, in the order given: of the sorted ones, max over j <= i of min(1, (k - j + 1) p_j).

    Rejecting where the adjusted value is at most alpha keeps the chance of any false rejection at alpha, whatever the
    dependence.

    Args:
        p_values: (k,) in [0, 1].

    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    p = as_scores(p_values, "p values")
    if p.min() < 0.0 or p.max() > 1.0:
        raise DataError(f"p values must lie in [0, 1], got {p.min():g} ... {p.max():g}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return tuple(float(value) for value in adjusted)


def holm_intervals(tests: Sequence[IntervalTest | None], alpha: float = ALPHA) -> tuple[Step | None, ...]:
    """Holm's procedure on intervals: a claim is rejected while its two-sided 1 - alpha/(claims left) interval is out.

    The same decisions as Holm on the p values that these intervals invert to. The levels are two-sided, so a single
    claim errs in alpha/2 to alpha, never above, whatever its margin.

    Args:
        tests: one per claim; None for a claim that cannot be tested and still counts in the family.
        alpha: for the whole family.
    """
    if not 0.0 < alpha < 1.0:
        raise DataError(f"alpha must lie in (0, 1), got {alpha}; 5 % is 0.05")
    steps: list[Step | None] = [None] * len(tests)
    left, found = len(tests), True
    while found and left:
        before, level = left, 1.0 - alpha / left
        for i, test in enumerate(tests):
            step = steps[i]
            if test is not None and not (step and step.rejected):
                interval = test.at(level)
                steps[i] = Step(interval, test.outside(interval))
        left = sum(not (step and step.rejected) for step in steps)
        found = left < before
    return tuple(steps)


def intersection_union(holds: Sequence[bool]) -> bool:
    """Whether all claims hold, each tested at 5 %: the union of their alternatives is refused at 5 % too.

    Raises:
        DataError: no claim; of nothing one cannot say that all of it holds.
    """
    if not holds:
        raise DataError("intersection_union got no claim; name at least one required claim")
    return all(holds)
