"""Methods beside retraining: the numbers of the headline table (S13), unit by unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from amu_fast.audit.intervals import (
    TOST_LEVEL,
    Interval,
    attained_margin,
    average_gap,
    equivalent,
    paired_t,
    t_interval,
)
from amu_fast.errors import DataError


@dataclass(frozen=True)
class MethodRuns:
    """One method on all units of an experiment.

    Attributes:
        name: as in the table.
        differences: per metric, its value minus retrain's, as fractions, one per unit in the units' order.
        seconds: wall time per unit.
        collapses: units with test accuracy more than 10 points under retrain's; they stay in all figures (S2).
        row_intervals: 95 % intervals over rows of the differences, for a single unit.
        tost_intervals: 90 % intervals over rows of the differences, for a single unit.
    """

    name: str
    differences: Mapping[str, tuple[float, ...]]
    seconds: tuple[float, ...]
    collapses: int = 0
    row_intervals: Mapping[str, Interval] = field(default_factory=dict)
    tost_intervals: Mapping[str, Interval] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {len(values) for values in (*self.differences.values(), self.seconds)}
        if len(lengths) != 1 or 0 in lengths:
            raise DataError(f"{self.name}: every metric and the seconds need one value per unit, got lengths {lengths}")

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.seconds)

    def interval(self, metric: str, level: float = 0.95) -> Interval | None:
        """t-interval over units; with a single unit the interval over rows, or None if there is none."""
        if self.units > 1:
            return t_interval(self.differences[metric], level)
        return (self.tost_intervals if level == TOST_LEVEL else self.row_intervals).get(metric)

    def gaps(self, metrics: tuple[str, ...]) -> tuple[float, ...]:
        """Average gap over `metrics` of each unit, in points."""
        return tuple(average_gap({m: self.differences[m][unit] for m in metrics}) for unit in range(self.units))

    def attained_margin(self, metrics: tuple[str, ...]) -> float | None:
        """Smallest margin, in points, at which all `metrics` are equivalent to retrain; None without intervals."""
        intervals = {metric: self.interval(metric, TOST_LEVEL) for metric in metrics}
        known = {metric: interval for metric, interval in intervals.items() if interval is not None}
        return attained_margin(known) if len(known) == len(metrics) else None


@dataclass(frozen=True)
class Comparison:
    """Methods judged on the same units.

    Attributes:
        methods: in the order of the rows.
        floor: another retrained model, judged like a method.
        metrics: the metrics of the columns, of the attained margin and of the average gap.
        title: task and budget.
        labels: metric to column title; the metric's own name where absent.
        margins: metric to equivalence margin in points, fixed before the runs (S8); marks cells that attain it.
    """

    methods: tuple[MethodRuns, ...]
    floor: MethodRuns
    metrics: tuple[str, ...]
    title: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    margins: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.metrics:
            raise DataError("a comparison needs at least 1 metric, got none")
        for runs in (self.floor, *self.methods):
            missing = set(self.metrics) - set(runs.differences)
            if missing:
                raise DataError(f"{runs.name} lacks the metrics {sorted(missing)}; every row needs all of them")
            if runs.units != self.units:
                raise DataError(f"{runs.name} has {runs.units} units and the floor {self.units}; judge all on the same")

    @property
    def units(self) -> int:
        """Number of units."""
        return self.floor.units

    @property
    def rows(self) -> tuple[MethodRuns, ...]:
        """The floor, then the methods."""
        return (self.floor, *self.methods)

    def mean_gap(self, runs: MethodRuns) -> float:
        """Average gap in points, averaged over units."""
        return sum(runs.gaps(self.metrics)) / runs.units

    def gap_difference(self, first: MethodRuns, second: MethodRuns, level: float = 0.95) -> Interval:
        """Paired t-interval of gap(first) - gap(second), in points: "first is better" if it lies below 0 (S13)."""
        return paired_t(first.gaps(self.metrics), second.gaps(self.metrics), level)

    def equivalent(self, runs: MethodRuns, metric: str) -> bool:
        """Whether the metric is equivalent to retrain's within its margin; False where no margin was fixed."""
        interval = runs.interval(metric, TOST_LEVEL)
        if metric not in self.margins or interval is None:
            return False
        return equivalent(interval, self.margins[metric] / 100.0)
