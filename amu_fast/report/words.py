"""How an audit report writes numbers and what it calls things; a minus is a minus, not a hyphen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amu_fast.audit.intervals import Interval

NOTHING = "–"

TITLES: Mapping[str, str] = {
    "verdict": "Verdict",
    "comparison": "Differences to the retrained model",
    "losses": "Losses before, after, retrained",
    "roc": "ROC curves",
    "history": "Both players over the steps",
    "examples": "Single rows",
    "attacks": "Attack panel",
    "robustness": "Robustness",
    "cost": "Cost",
    "provenance": "Provenance",
}
"""Of the ten parts, in order."""

OUTCOMES: Mapping[str, tuple[str, str, str]] = {
    "meets_policy": ("✓", "Meets the policy", "Every required claim holds within its margin."),
    "fails": ("✕", "Fails", "At least one required claim is violated: its interval lies wholly outside the margin."),
    "inconclusive": ("?", "Inconclusive", "The evidence decides neither way. This is neither a pass nor a failure."),
    "no_certificate": ("!", "No certificate", "The audit itself is unsound, so nothing follows from it."),
}
"""Outcome to sign, words and meaning."""
NOT_JUDGED = ("–", "Not judged", "")

STATES: Mapping[str, str] = {
    "HOLDS": "holds",
    "VIOLATED": "violated",
    "UNDECIDED": "undecided",
    "NOT_EVALUABLE": "not evaluable",
}

THRESHOLDS: Mapping[str, tuple[str, str]] = {
    "auc": ("AUC from the reference's", "points, either way"),
    "tpr": ("TPR", "%, at most"),
    "tpr_fpr": ("at a false-positive rate of", "%"),
    "test_accuracy": ("Test accuracy below the reference's", "points, at most"),
    "retain_accuracy": ("Retain accuracy from the reference's", "points, either way"),
    "forget_accuracy": ("Forget accuracy from the reference's", "points, either way"),
}
"""Threshold to its title and unit."""

SIDES: Mapping[str, str] = {"both": "within ±", "at_least": "at least −", "at_most": "at most "}

_SCOPES = {
    "this model": "for this model only (rows resampled; nothing about other splits or seeds)",
    "the algorithm": "for the algorithm (over independent units of split, forget draw and training seed)",
}


def number(value: float | None, digits: int = 3) -> str:
    """`0.523`; a dash where there is none."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:,.{digits}f}".replace("-", "−")


def points(value: float | None, digits: int = 1) -> str:
    """A difference of fractions in signed points, `+1.2`; what rounds to zero has no sign."""
    if value is None or not math.isfinite(value):
        return NOTHING
    rounded = round(100.0 * value, digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as `93.4 %`."""
    return NOTHING if value is None or not math.isfinite(value) else f"{100.0 * value:.{digits}f} %"


def span_number(interval: Interval | None, digits: int = 3) -> str:
    """`[0.501, 0.545]`."""
    return "" if interval is None else f"[{number(interval.low, digits)}, {number(interval.high, digits)}]"


def span_points(interval: Interval | None) -> str:
    """`[−0.3, +2.7]`."""
    return "" if interval is None else f"[{points(interval.low)}, {points(interval.high)}]"


def span_percent(interval: Interval | None, digits: int = 1) -> str:
    """`[90.1, 94.2]`, of percents."""
    if interval is None:
        return ""
    return f"[{number(100 * interval.low, digits)}, {number(100 * interval.high, digits)}]"


def duration(seconds: float | None) -> str:
    """`1.3 s`, `2 min 5 s` or `3 h 10 min`."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def memory(size: float | None) -> str:
    """Bytes as `1.5 GiB`."""
    if size is None or not math.isfinite(size):
        return NOTHING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.1f} {unit}"


def threshold(name: str) -> tuple[str, str]:
    """Title and unit of a threshold."""
    return THRESHOLDS.get(name, (name.replace("_", " "), "points"))


def metric_title(name: str, labels: Mapping[str, str] | None = None) -> str:
    """`test_accuracy` as `test accuracy`."""
    return (labels or {}).get(name, name.replace("_", " ").replace("auc", "AUC"))


def scopes(intervals: Iterable[Interval | None]) -> tuple[str, ...]:
    """What the intervals of one table are: level, scope (S1) and method, one sentence per kind."""
    methods: dict[tuple[float, str], dict[str, None]] = {}
    for interval in intervals:
        if interval is not None:
            methods.setdefault((interval.level, interval.scope), {})[interval.method] = None
    return tuple(
        f"Brackets are {100 * level:g} % intervals {_SCOPES[scope]}: {'; '.join(used)}."
        for (level, scope), used in methods.items()
    )


def cautions(intervals: Iterable[Interval | None]) -> tuple[str, ...]:
    """Why some intervals should not be trusted, each reason once."""
    return tuple(dict.fromkeys(i.note for i in intervals if i is not None and i.note))
