"""From records to the table, by the rules of docs/statistics.md; nothing else goes in, so anybody can do it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from amu_fast.audit.intervals import (
    TOST_LEVEL,
    Interval,
    attained_margin,
    average_gap,
    equivalent,
    paired_t,
    sign_flip_test,
    t_interval,
)
from amu_fast.audit.margins import auc_margin
from amu_fast.audit.metrics import collapsed
from amu_fast.errors import DataError
from amu_fast.experiments.records import UnitRecord
from amu_fast.experiments.runs import RunRecord
from amu_fast.report.comparison import MethodRuns

ACCURACY_MARGINS = {"retain_accuracy": 1.0, "forget_accuracy": 3.0, "test_accuracy": 1.0}
"""Points; test accuracy is one-sided, non-inferior (S8)."""
ONE_SIDED = ("test_accuracy", "general_accuracy")
"""Metrics that may be better than retrain's."""
MIN_FLIP_UNITS = 6


@dataclass(frozen=True)
class Row:
    """One method at one budget over the judged units; differences and gaps in points (AUC × 100).

    Attributes:
        name: Of the row.
        share: Budget; None for models that were trained from scratch.
        units: Judged.
        differences: Signed, to retrain, per headline metric: mean and 95 % t-interval over units.
        holds: Per headline metric, whether it is equivalent to retrain within its margin (90 % interval).
        attained_margin: Smallest margin at which all are equivalent (S13).
        gap: Average absolute difference, with its interval over units.
        gap_minus_floor: Paired; None for the floor itself.
        collapses: Units with test accuracy more than 10 points under retrain's, or no model.
        seconds: Median wall time, one thread.
        used: Mean share of retraining's gradient samples; None for the original.
        panel: Means of the other metrics, in their own units.
    """

    name: str
    share: float | None
    units: tuple[int, ...]
    differences: Mapping[str, Interval]
    holds: Mapping[str, bool]
    attained_margin: float
    gap: Interval
    gap_minus_floor: Interval | None
    collapses: int
    seconds: float
    used: float | None
    panel: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """Gap of one row minus gap of another at the same budget, paired by unit; below 0 the first is better.

    Attributes:
        first: Row.
        second: Row.
        share: Budget.
        difference: In points, mean and 95 % t-interval.
        p: Of the sign-flip test; None below 6 units.
    """

    first: str
    second: str
    share: float
    difference: Interval
    p: float | None


def reference_row(
    name: str, units: Sequence[UnitRecord], margins: Mapping[str, float], utility: str = "test_accuracy"
) -> Row:
    """The original or the floor, as a row; the metrics are those that have a margin, `utility` tells a collapse."""
    signed = [_signed(u, name, margins) for u in units]
    lost = [collapsed(u.headline[name][utility], u.headline["retrain"][utility]) for u in units]
    seconds = [u.seconds[name] for u in units]
    panels = [u.panel[name] for u in units]
    return _row(name, None, units, signed, margins, sum(lost), seconds, 1.0 if name == "floor" else None, panels)


def method_row(
    name: str, share: float, runs: Sequence[RunRecord], units: Sequence[UnitRecord], margins: Mapping[str, float]
) -> Row:
    """A method at one budget; `runs` and `units` belong together pairwise."""
    if [run.unit for run in runs] != [unit.unit for unit in units]:
        raise DataError(f"{name} has runs of units {[r.unit for r in runs]}, expected {[u.unit for u in units]}")
    signed = [run.differences for run in runs]
    lost = sum(run.collapsed or bool(run.diverged) for run in runs)
    used = sum(run.gradient_samples / unit.retrain_samples for run, unit in zip(runs, units, strict=True)) / len(runs)
    seconds = [run.seconds for run in runs]
    return _row(name, share, units, signed, margins, lost, seconds, used, [run.panel for run in runs])


def _row(
    name: str,
    share: float | None,
    units: Sequence[UnitRecord],
    signed: Sequence[Mapping[str, float]],
    margins: Mapping[str, float],
    lost: int,
    seconds: Sequence[float],
    used: float | None,
    panels: Sequence[Mapping[str, float]],
) -> Row:
    columns = {metric: tuple(d[metric] for d in signed) for metric in margins}
    runs = MethodRuns(name, columns, tuple(seconds), lost)
    gaps = runs.gaps(tuple(margins))
    return Row(
        name=name,
        share=share,
        units=tuple(unit.unit for unit in units),
        differences={metric: t_interval(column).scaled(100.0) for metric, column in columns.items()},
        holds={metric: _holds(metric, column, margins[metric]) for metric, column in columns.items()},
        attained_margin=attained_margin(columns),
        gap=t_interval(gaps),
        gap_minus_floor=None if name == "floor" else paired_t(gaps, floor_gaps(units, margins)),
        collapses=lost,
        seconds=median(seconds),
        used=used,
        panel={key: sum(p[key] for p in panels) / len(panels) for key in panels[0]},
    )


def compare(first: str, second: str, share: float, gaps: Mapping[str, Sequence[float]]) -> Comparison:
    """Paired by unit."""
    a, b = gaps[first], gaps[second]
    flips = [x - y for x, y in zip(a, b, strict=True)]
    p = sign_flip_test(flips) if len(flips) >= MIN_FLIP_UNITS else None
    return Comparison(first, second, share, paired_t(a, b), p)


def floor_gaps(units: Sequence[UnitRecord], metrics: Iterable[str]) -> list[float]:
    """Per unit, what another retrain shows, in points."""
    metrics = tuple(metrics)
    return [average_gap(_signed(u, "floor", metrics)) for u in units]


def _signed(unit: UnitRecord, name: str, metrics: Iterable[str]) -> dict[str, float]:
    """Metrics of one of a unit's models minus retrain's, as fractions."""
    return {metric: unit.headline[name][metric] - unit.headline["retrain"][metric] for metric in metrics}


def margins_of(tuning: Sequence[UnitRecord]) -> dict[str, float]:
    """Margins in points by S8: the attack's is min(5, 20 % of the original's excess over retrain), on tuning units."""
    excess = [u.headline["original"]["attack_auc"] - u.headline["retrain"]["attack_auc"] for u in tuning]
    if sum(excess) <= 0.0:
        raise DataError(
            f"on the tuning units the original's attack AUC exceeds retrain's by {100 * sum(excess) / len(excess):.2f} "
            "points; this task has nothing to forget: train longer or add label noise"
        )
    return {**ACCURACY_MARGINS, "attack_auc": 100.0 * auc_margin(excess)}


def _holds(metric: str, column: Sequence[float], margin: float) -> bool:
    interval = t_interval(column, TOST_LEVEL).scaled(100.0)
    return interval.low > -margin if metric in ONE_SIDED else equivalent(interval, margin)
