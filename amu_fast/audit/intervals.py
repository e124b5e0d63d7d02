"""Intervals over units and over rows, equivalence, and the headline numbers of a comparison.

A unit is one (data split, forget draw, training seed), everything else averaged inside it (S2). An interval
over units speaks for the algorithm, one over rows for this model only; each carries its scope (S1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from amu_fast.audit.metrics import Array, as_scores
from amu_fast.errors import DataError

Scope = Literal["this model", "the algorithm"]

TOST_LEVEL = 0.90
"""Two one-sided tests at 5 % are a two-sided 90 % interval inside the margin."""

MIN_UNITS = 5
EXACT_FLIPS = 16


@dataclass(frozen=True)
class Interval:
    """A value with its interval and what the interval is conditional on.

    Attributes:
        value: point estimate.
        low: lower end.
        high: upper end.
        level: coverage it is made for.
        scope: "this model" (rows resampled) or "the algorithm" (independent units), S1.
        method: how it was computed.
        sizes: (units,), (rows,) or (members, non-members).
        note: why it should not be trusted, if so.
    """

    value: float
    low: float
    high: float
    level: float
    scope: Scope
    method: str
    sizes: tuple[int, ...]
    note: str = ""

    def contains(self, value: float) -> bool:
        """Whether low <= value <= high."""
        return self.low <= value <= self.high

    def scaled(self, factor: float) -> Interval:
        """The interval in other units; points are `scaled(100)`."""
        low, high = sorted((self.low * factor, self.high * factor))
        return replace(self, value=self.value * factor, low=low, high=high)


def t_interval(values: Any, level: float = 0.95) -> Interval:
    """Student t interval for the mean over units: mean -+ t_{n-1} s / sqrt(n).

    Args:
        values: one number per unit, (n,), n >= 2; below 5 the interval carries a note (S2).
        level: coverage.

    >>> interval = t_interval([1.0, 2.0, 3.0])
    >>> round(interval.low, 4), round(interval.high, 4)
    (-0.4841, 4.4841)
    """
    x = as_scores(values, "unit values")
    if len(x) < 2:
        raise DataError("a t interval needs at least 2 units, got 1; run more units or use an interval over rows")
    half = _t_quantile(level, len(x) - 1) * float(x.std(ddof=1)) / math.sqrt(len(x))
    mean = float(x.mean())
    note = "" if len(x) >= MIN_UNITS else f"{len(x)} units; {MIN_UNITS} are the floor (S2)"
    return Interval(mean, mean - half, mean + half, level, "the algorithm", "Student t", (len(x),), note)


def paired_t(first: Any, second: Any, level: float = 0.95) -> Interval:
    """Student t interval for the mean of first - second, unit by unit."""
    a, b = as_scores(first, "first"), as_scores(second, "second")
    if a.shape != b.shape:
        raise DataError(f"paired values must belong to the same units, got {len(a)} and {len(b)}")
    return replace(t_interval(a - b, level), method="paired Student t")


def sign_flip_test(differences: Any, draws: int = 9999, seed: int = 0) -> float:
    """Two-sided p of differences symmetric around 0: share of sign flips whose |mean| is at least as large.

    Exact up to 16 units; beyond, `draws` random flips with p = (1 + #)/(1 + draws).

    Raises:
        DataError: fewer than 6 units; with 5 the smallest possible p is 2/32 > .05.
    """
    d = as_scores(differences, "differences")
    n = len(d)
    if n < 6:
        raise DataError(f"a sign-flip test needs at least 6 units, got {n}; its smallest p would be {2 / 2**n:.3f}")
    observed = abs(float(d.sum())) * (1.0 - 1e-12)
    if n <= EXACT_FLIPS:
        bits = np.arange(2**n)[:, None] >> np.arange(n) & 1
        return float((np.abs((1.0 - 2.0 * bits) @ d) >= observed).mean())
    signs = 1.0 - 2.0 * np.random.default_rng(seed).integers(0, 2, size=(draws, n))
    return float((1 + (np.abs(signs @ d) >= observed).sum()) / (1 + draws))


def clopper_pearson(successes: float, trials: int, level: float = 0.95) -> Interval:
    """Exact interval of a share; `successes` need not be whole (an AUC times min(m, n), S3)."""
    if not 0 <= successes <= trials or trials < 1:
        raise DataError(f"successes must lie in 0 ... trials with trials >= 1, got {successes} of {trials}")
    from scipy.special import betaincinv

    tail, k, n = (1.0 - _checked(level)) / 2.0, successes, trials
    low = 0.0 if k <= 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k >= n else float(betaincinv(k + 1, n - k, 1.0 - tail))
    return Interval(k / n, low, high, level, "this model", "Clopper-Pearson", (n,))


def accuracy_interval(correct: Any, level: float = 0.95) -> Interval:
    """Clopper-Pearson interval of an accuracy from per-row correctness (n,)."""
    x = as_scores(correct, "correct")
    return clopper_pearson(float(x.sum()), len(x), level)


def accuracy_difference(first: Any, second: Any, level: float = 0.95) -> Interval:
    """Interval of accuracy(first) - accuracy(second) on the same rows.

    With b rows right only in the second and c only in the first, half a row is added to each of four cells:
    centre (c - b)/(n + 2), variance [(b + c + 1) - (c - b)^2/(n + 2)]/(n + 2)^2. The width is never 0.

    Args:
        first: correctness (n,) of one model.
        second: correctness (n,) of the other on the same rows in the same order.
        level: coverage.

    Source: Agresti and Min, Statistics in Medicine 24 (2005) 729-740.
    """
    a, b = as_scores(first, "first"), as_scores(second, "second")
    if a.shape != b.shape:
        raise DataError(f"both models must be judged on the same rows, got {len(a)} and {len(b)}")
    n, gained, lost = len(a), float((a > b).sum()), float((a < b).sum())
    centre = (gained - lost) / (n + 2)
    variance = (gained + lost + 1.0 - (gained - lost) ** 2 / (n + 2)) / (n + 2) ** 2
    half = normal_quantile(level) * math.sqrt(variance)
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Interval((gained - lost) / n, low, high, level, "this model", "Agresti-Min", (n,))


def clustered_mean(values: Any, clusters: Any, level: float = 0.95) -> Interval:
    """Interval of a mean over rows, by person: x -+ t_{I-1} sqrt(I/(I-1) sum_c (sum_{i in c} (x_i - x))^2)/n (S4).

    Args:
        values: one per row (n,), for example the difference of two models' correctness.
        clusters: person of each row (n,); I >= 2 of them.
        level: coverage.
    """
    x, ids = as_scores(values, "row values"), np.asarray(clusters)
    if ids.shape != x.shape:
        raise DataError(f"clusters must name one person per row, {x.shape}, got {ids.shape}")
    codes = np.unique(ids, return_inverse=True)[1]
    count, mean = int(codes.max()) + 1, float(x.mean())
    if count < 2:
        raise DataError(f"an interval by person needs at least 2 persons, got {count}")
    sums = np.bincount(codes, weights=x - mean)
    half = _t_quantile(level, count - 1) * math.sqrt(count / (count - 1) * float(sums @ sums)) / len(x)
    return Interval(mean, mean - half, mean + half, level, "this model", "cluster t", (count,))


def equivalent(interval: Interval, margin: float) -> bool:
    """Two one-sided tests at 5 %: the 90 % interval of a difference lies strictly within the margin."""
    if not margin > 0:
        raise DataError(f"margin must be > 0, got {margin}; fix it before the audit (S8)")
    _check_tost_level(interval)
    return -margin < interval.low and interval.high < margin


def attained_margin(differences: Mapping[str, Sequence[float] | Array | Interval]) -> float:
    """Smallest margin, in points, at which every metric is equivalent to retrain (S13).

    max over metrics of max(|low|, |high|) of the 90 % interval, times 100: a point value without an interval.

    Args:
        differences: per metric, the signed differences to retrain as fractions, one per unit (>= 2 units), or
            a 90 % interval (over rows, with a single unit).
    """
    if not differences:
        raise DataError("attained_margin got no metric; pass at least one")
    intervals = [d if isinstance(d, Interval) else t_interval(d, TOST_LEVEL) for d in differences.values()]
    for interval in intervals:
        _check_tost_level(interval)
    return 100.0 * max(max(abs(i.low), abs(i.high)) for i in intervals)


def average_gap(differences: Mapping[str, float]) -> float:
    """Mean over metrics of |difference to retrain| of one unit, in points; another retrain has ~1 (S13)."""
    if not differences:
        raise DataError("average_gap got no metric; pass at least one")
    return 100.0 * float(np.mean(np.abs(as_scores(list(differences.values()), "differences"))))


def normal_quantile(level: float) -> float:
    """Z with P(|Z| <= z) = level."""
    from scipy.special import ndtri

    return float(ndtri(0.5 + _checked(level) / 2.0))


def _t_quantile(level: float, degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + _checked(level) / 2.0))


def _checked(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise DataError(f"level must lie in (0, 1), got {level}; 95 % is 0.95")
    return level


def _check_tost_level(interval: Interval) -> None:
    if not math.isclose(interval.level, TOST_LEVEL):
        raise DataError(f"equivalence at 5 % needs a 90 % interval, got level {interval.level}; pass level=0.90")
