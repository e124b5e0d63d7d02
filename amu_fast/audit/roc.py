"""The true-positive rate at a small false-positive rate, and the ROC curve, with bootstrap intervals (S5).

The threshold is estimated from the same non-members, so every bootstrap draw re-estimates it; an interval
with the threshold held fixed on its own rows covers .32 to .89.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amu_fast.audit.intervals import Interval, clopper_pearson
from amu_fast.audit.metrics import Array, allowed_false_positives, as_scores, tpr_at_fpr
from amu_fast.errors import DataError

MIN_DRAWS = 1000
NONMEMBERS_PER_FPR = 10
MEMBERS_PER_FPR = 5
ROWS_PER_CHUNK = 4_000_000

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RocCurve:
    """ROC points from false-positive rate 10/n to 1; the bands hold at each point separately.

    Attributes:
        fpr: false-positive rates (k,), increasing; fpr[0] is the floor 10/n below which no curve is drawn.
        tpr: true-positive rates (k,).
        low: lower ends (k,).
        high: upper ends (k,).
        level: pointwise coverage.
    """

    fpr: Array
    tpr: Array
    low: Array
    high: Array
    level: float


def tpr_interval(
    members: Any, nonmembers: Any, fpr: float, *, level: float = 0.95, draws: int = MIN_DRAWS, seed: int = 0
) -> Interval:
    """Stratified bootstrap interval of the TPR at one FPR, the threshold re-estimated in each draw.

    Each draw is exact and costs O(1): the (k+1)-th largest of n rows drawn with replacement is the sorted
    score number floor(n U) with U ~ Beta(n - k, k + 1), and the members above it are Binomial. At TPR 0 or 1
    the interval is widened to Clopper-Pearson's.

    Args:
        members: scores (m,).
        nonmembers: scores (n,); with n < 10/fpr or m < 5/fpr the interval carries a note.
        fpr: false-positive rate in (0, 1).
        level: coverage.
        draws: bootstrap draws, >= 1000.
        seed: seed of the draws.
    """
    s, t = np.sort(as_scores(members, "member scores")), np.sort(as_scores(nonmembers, "non-member scores"))
    value = tpr_at_fpr(s, t, fpr)
    rates = _bootstrap_rates(s, t, allowed_false_positives(len(t), fpr), draws, seed)
    low, high = _percentiles(rates, level)
    if value in (0.0, 1.0):
        bound = clopper_pearson(value * len(s), len(s), level)
        low, high = min(low, bound.low), max(high, bound.high)
    note = _size_note(len(s), len(t), fpr)
    return Interval(value, low, high, level, "this model", "bootstrap", (len(s), len(t)), note)


def tpr_difference(
    first: tuple[Any, Any],
    second: tuple[Any, Any],
    fpr: float,
    *,
    level: float = 0.95,
    draws: int = MIN_DRAWS,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of TPR(first) - TPR(second) at one FPR on the same rows: both see the same draws.

    Args:
        first: (member scores, non-member scores) of one model.
        second: those of the other model on the same rows in the same order.
        fpr: false-positive rate in (0, 1).
        level: coverage.
        draws: bootstrap draws, >= 1000.
        seed: seed of the draws.
    """
    s = _stack(first[0], second[0], "member")
    t = _stack(first[1], second[1], "non-member")
    _check_draws(draws)
    m, n = s.shape[1], t.shape[1]
    k, rng = allowed_false_positives(n, fpr), np.random.default_rng(seed)
    chunk = max(1, ROWS_PER_CHUNK // (m + n))
    parts = []
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        rows_m, rows_n = rng.integers(0, m, (size, m)), rng.integers(0, n, (size, n))
        parts.append(_resampled_tpr(s[0], t[0], rows_m, rows_n, k) - _resampled_tpr(s[1], t[1], rows_m, rows_n, k))
    low, high = _percentiles(np.concatenate(parts), level)
    value = tpr_at_fpr(s[0], t[0], fpr) - tpr_at_fpr(s[1], t[1], fpr)
    return Interval(value, low, high, level, "this model", "paired bootstrap", (m, n), _size_note(m, n, fpr))


def roc_curve(
    members: Any,
    nonmembers: Any,
    *,
    points: int = 60,
    level: float = 0.95,
    draws: int = MIN_DRAWS,
    seed: int = 0,
) -> RocCurve:
    """ROC with pointwise bands at `points` rates, evenly spaced in log FPR from 10/n to 1.

    Raises:
        DataError: 20 non-members or fewer, which leave less than half the axis.
    """
    s, t = np.sort(as_scores(members, "member scores")), np.sort(as_scores(nonmembers, "non-member scores"))
    floor = NONMEMBERS_PER_FPR / len(t)
    if floor >= 0.5:
        raise DataError(f"a ROC needs more than {2 * NONMEMBERS_PER_FPR} non-members, got {len(t)}")
    counts = np.unique(np.round(np.geomspace(NONMEMBERS_PER_FPR, len(t) - 1, points)).astype(int))
    fpr = counts / len(t)
    tpr = np.array([tpr_at_fpr(s, t, rate) for rate in fpr])
    bands = [_percentiles(_bootstrap_rates(s, t, int(k), draws, seed), level) for k in counts]
    low, high = np.array(bands).T
    return RocCurve(np.append(fpr, 1.0), np.append(tpr, 1.0), np.append(low, 1.0), np.append(high, 1.0), level)


def _bootstrap_rates(s: Array, t: Array, k: int, draws: int, seed: int) -> Array:
    """Share of members above the re-estimated threshold, per draw; s and t sorted."""
    _check_draws(draws)
    rng, m, n = np.random.default_rng(seed), len(s), len(t)
    place = np.minimum((rng.beta(n - k, k + 1, draws) * n).astype(int), n - 1)
    above = 1.0 - np.searchsorted(s, t[place], side="right") / m
    return np.asarray(rng.binomial(m, above) / m)


def _resampled_tpr(s: Array, t: Array, rows_m: Rows, rows_n: Rows, k: int) -> Array:
    place = t.shape[0] - 1 - k
    threshold = np.partition(t[rows_n], place, axis=1)[:, place]
    return np.asarray((s[rows_m] > threshold[:, None]).mean(axis=1))


def _percentiles(values: Array, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def _stack(one: Any, other: Any, side: str) -> Array:
    a, b = as_scores(one, f"{side} scores"), as_scores(other, f"{side} scores")
    if a.shape != b.shape:
        raise DataError(f"both models must be judged on the same {side} rows, got {len(a)} and {len(b)}")
    return np.stack([a, b])


def _check_draws(draws: int) -> None:
    if draws < MIN_DRAWS:
        raise DataError(f"draws must be >= {MIN_DRAWS} (S5), got {draws}")


def _size_note(members: int, nonmembers: int, fpr: float) -> str:
    needed = (MEMBERS_PER_FPR / fpr, NONMEMBERS_PER_FPR / fpr)
    if members >= needed[0] * (1 - 1e-9) and nonmembers >= needed[1] * (1 - 1e-9):
        return ""
    have, need = f"{members} members and {nonmembers} non-members", f"{needed[0]:.0f} and {needed[1]:.0f}"
    return f"{have}; a claim at FPR {fpr:g} needs {need}"
