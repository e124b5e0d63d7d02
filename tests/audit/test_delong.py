"""AUC intervals: DeLong by double loop, the edges, clusters, and coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from amu_fast.audit.delong import auc_difference, auc_interval
from amu_fast.audit.intervals import clopper_pearson
from amu_fast.errors import DataError

Z = 1.959963984540054


def kernel(s, t):
    return (s[:, None] > t).astype(float) + 0.5 * (s[:, None] == t)


def delong_covariance(models):
    """DeLong et al. 1988, equations (4)-(5), over all pairs."""
    m, n = len(models[0][0]), len(models[0][1])
    v10 = [kernel(s, t).mean(axis=1) for s, t in models]
    v01 = [kernel(s, t).mean(axis=0) for s, t in models]
    return np.array(
        [
            [
                ((a - a.mean()) * (b - b.mean())).sum() / (m - 1) / m
                + ((c - c.mean()) * (d - d.mean())).sum() / (n - 1) / n
                for b, d in zip(v10, v01, strict=True)
            ]
            for a, c in zip(v10, v01, strict=True)
        ]
    )


def correlated(rng, shifts, correlation=0.6, m=80, n=100):
    common = rng.normal(size=m), rng.normal(size=n)
    return [
        tuple(
            np.sqrt(correlation) * c + np.sqrt(1 - correlation) * rng.normal(size=len(c)) + (shift if side == 0 else 0)
            for side, c in enumerate(common)
        )
        for shift in shifts
    ]


def test_single_interval_by_double_loop_with_ties():
    rng = np.random.default_rng(0)
    s, t = np.round(rng.normal(0.5, 1, 60), 1), np.round(rng.normal(0, 1, 45), 1)
    half = Z * np.sqrt(delong_covariance([(s, t)])[0, 0])
    interval = auc_interval(s, t)
    assert interval.value == pytest.approx(kernel(s, t).mean(), abs=1e-14)
    assert (interval.low, interval.high) == pytest.approx((interval.value - half, interval.value + half), abs=1e-12)
    assert (interval.method, interval.scope, interval.sizes) == ("DeLong", "this model", (60, 45))


def test_paired_interval_is_delongs_below_the_logit_region():
    models = correlated(np.random.default_rng(1), (0.8, 0.4))
    covariance = delong_covariance(models)
    half = Z * np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    interval = auc_difference(*models)
    value = kernel(*models[0]).mean() - kernel(*models[1]).mean()
    assert (interval.value, interval.low, interval.high) == pytest.approx(
        (value, value - half, value + half), abs=1e-12
    )


def test_logit_scale_above_nine_tenths():
    rng = np.random.default_rng(2)
    s, t = rng.normal(2.5, 1, 60), rng.normal(0, 1, 60)
    interval = auc_interval(s, t)
    a, se = interval.value, np.sqrt(delong_covariance([(s, t)])[0, 0])
    assert a > 0.9
    logit = np.log(a / (1 - a)) + np.array([-1, 1]) * Z * se / (a * (1 - a))
    assert (interval.low, interval.high) == pytest.approx(tuple(1 / (1 + np.exp(-logit))), abs=1e-12)
    mirrored = auc_interval(-s, -t)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_the_width_is_never_zero():
    perfect = auc_interval(np.arange(10) + 100.0, np.arange(40.0))
    assert (perfect.value, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(clopper_pearson(10, 10).low)
    assert perfect.low < 0.75
    assert auc_interval(np.arange(10.0), np.arange(40) + 100.0).high == pytest.approx(1 - perfect.low)
    constant = auc_interval(np.ones(10), np.ones(20))
    assert constant.low < 0.3
    assert constant.high > 0.7
    both = auc_difference((np.arange(10) + 100.0, np.arange(40.0)), (np.arange(10) + 50.0, np.arange(40.0)))
    assert both.value == 0
    assert both.low < -0.2
    assert both.high > 0.2


def test_clusters_of_one_row_are_delong():
    models = correlated(np.random.default_rng(3), (0.8, 0.2), m=30, n=40)
    alone = (np.arange(30), np.arange(40) + 30)
    plain, clustered = auc_interval(*models[0]), auc_interval(*models[0], clusters=alone)
    assert clustered.low == pytest.approx(plain.low, abs=1e-12)
    paired, paired_clustered = auc_difference(*models), auc_difference(*models, clusters=alone)
    assert paired_clustered.high == pytest.approx(paired.high, abs=1e-12)
    assert clustered.method == "cluster DeLong"


def test_people_with_rows_on_both_sides_share_their_deviation():
    """A shift per person cancels between that person's members and non-members, and the interval knows."""
    rng = np.random.default_rng(4)
    person = rng.normal(0, 3, 30)
    s = np.repeat(person, 4) + rng.normal(0.5, 1, 120)
    t = np.repeat(person, 4) + rng.normal(0, 1, 120)
    ids = np.repeat(np.arange(30), 4)
    shared = auc_interval(s, t, clusters=(ids, ids))
    apart = auc_interval(s, t, clusters=(ids, ids + 100))
    assert shared.high - shared.low < 0.6 * (apart.high - apart.low)


def test_delong_needs_clusters_when_people_repeat():
    """S4: 8 rows a person at intraclass correlation .3."""
    rng, truth = np.random.default_rng(5), ndtr(0.5 / np.sqrt(2))
    ids = np.repeat(np.arange(30), 8)
    plain, clustered = [], []
    for _ in range(300):
        s, t = (np.repeat(rng.normal(0, 0.3**0.5, 30), 8) + rng.normal(shift, 0.7**0.5, 240) for shift in (0.5, 0.0))
        plain.append(auc_interval(s, t).contains(truth))
        clustered.append(auc_interval(s, t, clusters=(ids, ids + 100)).contains(truth))
    assert np.mean(plain) < 0.85 < 0.9 < np.mean(clustered)


@pytest.mark.parametrize("shift", [0.0, 2.0, 3.0])
def test_coverage_of_a_single_auc(shift):
    rng = np.random.default_rng(6)
    hits = [
        auc_interval(rng.normal(shift, 1, 60), rng.normal(0, 1, 60)).contains(ndtr(shift / np.sqrt(2)))
        for _ in range(500)
    ]
    assert np.mean(hits) > 0.91


@pytest.mark.parametrize("shifts", [(0.5, 0.5), (3.0, 0.5)])
def test_coverage_of_a_paired_difference(shifts):
    rng, truth = np.random.default_rng(7), ndtr(shifts[0] / np.sqrt(2)) - ndtr(shifts[1] / np.sqrt(2))
    hits = [auc_difference(*correlated(rng, shifts)).contains(truth) for _ in range(400)]
    assert 0.92 < np.mean(hits) < 0.98


def test_pairing_narrows_as_in_s6():
    """S6: SE .0186 / .0086 at 500 a side for score correlations .5 / .9, without signal."""
    rng = np.random.default_rng(8)
    for correlation, expected in ((0.5, 0.0186), (0.9, 0.0086)):
        widths = []
        for _ in range(10):
            interval = auc_difference(*correlated(rng, (0.0, 0.0), correlation, 500, 500))
            widths.append((interval.high - interval.low) / (2 * Z))
        assert np.mean(widths) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auc_interval([1.0], [0.0, 1.0]), "at least 2 members and 2 non-members, got 1 and 2"),
        (
            lambda: auc_difference(([1.0, 2], [0.0, 1]), ([1.0, 2, 3], [0.0, 1])),
            "same member rows, got 2 and 3",
        ),
        (lambda: auc_interval([1.0, 2], [0.0, 1], clusters=([0], [1, 2])), "one person per row"),
        (
            lambda: auc_interval([1.0, 2], [0.0, 1], clusters=([0, 0], [1, 2])),
            "at least 2 member clusters, got 1",
        ),
        (lambda: auc_interval([1.0, 2], [0.0, 1], level=95), "level must lie in .* got 95; 95 % is 0.95"),
    ],
)
def test_errors_name_the_value_and_the_fix(call, message):
    with pytest.raises(DataError, match=message):
        call()
