"""Intervals of the AUC and of the difference of two AUCs on the same rows, for fixed scores (S3, S4, S6).

Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837-845; clusters: Obuchowski, Biometrics 53
(1997) 567-578; difference of two intervals: Zou and Donner, Statistics in Medicine 27 (2008) 1693-1702.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from amu_fast.audit.intervals import Interval, clopper_pearson, normal_quantile
from amu_fast.audit.metrics import Array, placements
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOGIT_ABOVE = 0.9
"""Beyond .9 (or below .1) the interval is symmetric on the logit scale."""


class _Estimate(NamedTuple):
    values: Array  # (k,) AUC per model
    covariance: Array  # (k, k)
    independent: int  # the smaller number of independent rows or clusters
    sizes: tuple[int, int]
    method: str


def auc_interval(
    members: Any, nonmembers: Any, *, level: float = 0.95, clusters: tuple[Any, Any] | None = None
) -> Interval:
    """DeLong interval of an AUC with midranks, conditional on this model.

    Above .9 (below .1) on the logit scale; where the variance is 0 (AUC 0 or 1, constant scores) a
    Clopper-Pearson interval with min(m, n) trials, so the width is never 0.

    Args:
        members: scores (m,), m >= 2.
        nonmembers: scores (n,), n >= 2.
        level: coverage.
        clusters: person or author of each member row (m,) and non-member row (n,), if they repeat (S4).
    """
    estimate = _estimate([(members, nonmembers)], clusters)
    return _single(estimate, 0, level)


def auc_difference(
    first: tuple[Any, Any],
    second: tuple[Any, Any],
    *,
    level: float = 0.95,
    clusters: tuple[Any, Any] | None = None,
) -> Interval:
    """Paired DeLong interval of AUC(first) - AUC(second) on the same rows in the same order.

    From the single intervals [l, u] and DeLong's correlation r: the difference minus
    sqrt((a - l_a)^2 - 2 r (a - l_a)(u_b - b) + (u_b - b)^2), and likewise upward. Where both lie below .9
    this is exactly the paired DeLong interval; beyond it inherits the logit scale and the bound at AUC 1.

    Args:
        first: (member scores, non-member scores) of one model.
        second: those of the other model.
        level: coverage.
        clusters: as in `auc_interval`.
    """
    for one, other, side in zip(first, second, ("member", "non-member"), strict=True):
        if len(one) != len(other):
            raise DataError(f"both models must be judged on the same {side} rows, got {len(one)} and {len(other)}")
    estimate = _estimate([first, second], clusters)
    a, b = _single(estimate, 0, level), _single(estimate, 1, level)
    scale = math.sqrt(estimate.covariance[0, 0] * estimate.covariance[1, 1])
    r = float(estimate.covariance[0, 1]) / scale if scale > 0 else 0.0
    value = a.value - b.value
    low = value - _combine(a.value - a.low, b.high - b.value, r)
    high = value + _combine(a.high - a.value, b.value - b.low, r)
    method = f"paired {estimate.method}"
    return Interval(value, max(-1.0, low), min(1.0, high), level, "this model", method, estimate.sizes)


def _combine(one: float, other: float, r: float) -> float:
    return math.sqrt(max(0.0, one * one - 2.0 * r * one * other + other * other))


def _single(estimate: _Estimate, index: int, level: float) -> Interval:
    value, variance = float(estimate.values[index]), float(estimate.covariance[index, index])
    sizes, z = estimate.sizes, normal_quantile(level)
    if variance <= 0.0:
        n = estimate.independent
        bound = clopper_pearson(value * n, n, level)
        return Interval(value, bound.low, bound.high, level, "this model", "Clopper-Pearson, min(m, n)", sizes)
    if 1.0 - LOGIT_ABOVE <= value <= LOGIT_ABOVE:
        half, method = z * math.sqrt(variance), estimate.method
        return Interval(value, max(0.0, value - half), min(1.0, value + half), level, "this model", method, sizes)
    centre, half = math.log(value / (1.0 - value)), z * math.sqrt(variance) / (value * (1.0 - value))
    low, high = _logistic(centre - half), _logistic(centre + half)
    return Interval(value, low, high, level, "this model", f"{estimate.method}, logit scale", sizes)


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _estimate(models: list[tuple[Any, Any]], clusters: tuple[Any, Any] | None) -> _Estimate:
    pairs = [placements(*model) for model in models]
    v10, v01 = np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])
    sizes = (v10.shape[1], v01.shape[1])
    if min(sizes) < 2:
        raise DataError(f"an AUC interval needs at least 2 members and 2 non-members, got {sizes[0]} and {sizes[1]}")
    values = v10.mean(axis=1)
    if clusters is None:
        covariance = np.atleast_2d(np.cov(v10)) / sizes[0] + np.atleast_2d(np.cov(v01)) / sizes[1]
        return _Estimate(values, covariance, min(sizes), sizes, "DeLong")
    sums = [_cluster_sums(v - values[:, None], ids) for v, ids in zip((v10, v01), _codes(clusters, sizes), strict=True)]
    counts = [len(np.unique(ids)) for ids in _codes(clusters, sizes)]
    covariance = _cluster_covariance(sums[0], sums[1], counts, sizes)
    return _Estimate(values, covariance, min(counts), sizes, "cluster DeLong")


def _codes(clusters: tuple[Any, Any], sizes: tuple[int, int]) -> list[NDArray[np.int64]]:
    """Both sides' clusters as indices 0 ... I-1 into their union: a person may have rows on both sides."""
    ids = [np.asarray(side) for side in clusters]
    if (len(ids[0]), len(ids[1])) != sizes:
        raise DataError(f"clusters must name one person per row, {sizes}, got {(len(ids[0]), len(ids[1]))}")
    for side, name in zip(ids, ("member", "non-member"), strict=True):
        if len(np.unique(side)) < 2:
            raise DataError(f"cluster DeLong needs at least 2 {name} clusters, got {len(np.unique(side))}")
    codes = np.unique(np.concatenate(ids), return_inverse=True)[1]
    return [codes[: sizes[0]], codes[sizes[0] :]]


def _cluster_sums(centred: Array, codes: NDArray[np.int64]) -> Array:
    return np.stack([np.bincount(codes, weights=row) for row in centred])


def _cluster_covariance(a: Array, b: Array, counts: list[int], sizes: tuple[int, int]) -> Array:
    """S10/m + S01/n + (S11 + S11')/(mn) of the clusters' centred sums; with clusters of one row, DeLong's."""
    width = max(a.shape[1], b.shape[1])
    a, b = (np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in (a, b))
    m, n = sizes
    s10 = counts[0] / (counts[0] - 1) * (a @ a.T) / m**2
    s01 = counts[1] / (counts[1] - 1) * (b @ b.T) / n**2
    s11 = width / (width - 1) * (a @ b.T) / (m * n)
    return np.asarray(s10 + s01 + s11 + s11.T)
