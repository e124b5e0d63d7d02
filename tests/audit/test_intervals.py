"""Intervals over units: known answers, SciPy, and a short simulation of each rule."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from amu_fast.audit.intervals import (
    Interval,
    accuracy_difference,
    accuracy_interval,
    attained_margin,
    average_gap,
    clopper_pearson,
    equivalent,
    paired_t,
    sign_flip_test,
    t_interval,
)
from amu_fast.errors import DataError


def rows_interval(value=0.0, low=-0.01, high=0.01, level=0.9):
    return Interval(value, low, high, level, "this model", "DeLong", (500, 500))


def test_t_interval_is_scipys():
    from scipy import stats

    values = np.random.default_rng(0).normal(size=8)
    interval = t_interval(values, 0.9)
    expected = stats.t.interval(0.9, 7, loc=values.mean(), scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-12)
    assert (interval.scope, interval.sizes, interval.note) == ("the algorithm", (8,), "")


def test_few_units_are_noted_and_one_is_refused():
    assert t_interval([1.0, 2.0, 4.0]).note == "3 units; 5 are the floor (S2)"
    with pytest.raises(DataError, match="at least 2 units, got 1; run more units"):
        t_interval([1.0])


def test_paired_t_uses_the_pairs():
    unit_effect = np.arange(8.0)
    first = unit_effect + [0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.2, 0.2]
    interval = paired_t(first, unit_effect)
    assert 0 < interval.low < 0.175 < interval.high < 0.3
    with pytest.raises(DataError, match="same units, got 8 and 7"):
        paired_t(first, unit_effect[:7])


def test_t_interval_covers_with_five_units():
    rng = np.random.default_rng(0)
    hits = [t_interval(rng.normal(size=5)).contains(0.0) for _ in range(1000)]
    assert 0.93 < np.mean(hits) < 0.97


def test_sign_flip_is_the_enumeration():
    d = np.array([1.0, 2.0, -0.5, 3.0, 0.2, 1.5])
    sums = [abs(np.dot(signs, d)) for signs in itertools.product((-1, 1), repeat=6)]
    assert sign_flip_test(d) == np.mean(np.array(sums) >= abs(d.sum()) - 1e-12)
    assert sign_flip_test(np.ones(6)) == 2 / 64
    with pytest.raises(DataError, match=r"at least 6 units, got 5; its smallest p would be 0\.062"):
        sign_flip_test(np.ones(5))


def test_sign_flip_beyond_enumeration_is_never_zero_and_repeats():
    assert sign_flip_test(np.ones(30)) == 1 / 10_000
    d = np.random.default_rng(2).normal(0.3, 1, 20)
    assert sign_flip_test(d) == sign_flip_test(d)
    assert 0.02 < sign_flip_test(d) < 0.9


def test_clopper_pearson_known_values():
    from scipy import stats

    for successes, trials in ((0, 10), (3, 10), (10, 10), (57, 500)):
        expected = stats.binomtest(successes, trials).proportion_ci(0.95, "exact")
        interval = clopper_pearson(successes, trials)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    with pytest.raises(DataError, match="got 11 of 10"):
        clopper_pearson(11, 10)


def test_accuracy_interval_counts_rows():
    interval = accuracy_interval(np.array([True] * 57 + [False] * 443))
    assert interval == clopper_pearson(57, 500)


def test_accuracy_difference_covers_and_has_width():
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(1000):
        cell = rng.choice(4, size=300, p=[0.8, 0.08, 0.05, 0.07])
        hits.append(accuracy_difference(cell <= 1, (cell == 0) | (cell == 2)).contains(0.03))
    assert 0.93 < np.mean(hits) < 0.98
    same = accuracy_difference(np.ones(100), np.ones(100))
    assert same.value == 0
    assert same.low < 0 < same.high
    with pytest.raises(DataError, match="same rows, got 3 and 2"):
        accuracy_difference([1, 0, 1], [1, 0])


def test_equivalence_needs_the_whole_interval_inside():
    assert equivalent(rows_interval(), 0.02)
    assert not equivalent(rows_interval(high=0.03), 0.02)
    assert not equivalent(rows_interval(low=-0.02), 0.02)
    with pytest.raises(DataError, match=r"needs a 90 % interval, got level 0\.95; pass level=0\.90"):
        equivalent(rows_interval(level=0.95), 0.02)
    with pytest.raises(DataError, match="margin must be > 0, got 0"):
        equivalent(rows_interval(), 0)


def test_equivalence_errs_at_the_margin_in_five_percent():
    rng = np.random.default_rng(4)
    passed = [equivalent(t_interval(rng.normal(1.0, 0.3, 8), 0.9), 1.0) for _ in range(1500)]
    assert 0.03 < np.mean(passed) < 0.07


def test_attained_margin_is_the_smallest_at_which_all_are_equivalent():
    rng = np.random.default_rng(5)
    differences = {"test accuracy": rng.normal(0.004, 0.01, 8), "attack AUC": rng.normal(-0.02, 0.01, 8)}
    margin = attained_margin(differences) / 100
    intervals = [t_interval(d, 0.9) for d in differences.values()]
    assert all(equivalent(interval, margin * (1 + 1e-9)) for interval in intervals)
    assert not all(equivalent(interval, margin * (1 - 1e-9)) for interval in intervals)


def test_attained_margin_of_one_unit_uses_row_intervals():
    assert attained_margin({"a": rows_interval(high=0.03), "b": rows_interval()}) == pytest.approx(3.0)
    with pytest.raises(DataError, match="at least 2 units"):
        attained_margin({"a": [0.01]})
    with pytest.raises(DataError, match="no metric"):
        attained_margin({})


def test_average_gap_is_unsigned_and_in_points():
    assert average_gap({"a": -0.02, "b": 0.01}) == pytest.approx(1.5)
    with pytest.raises(DataError, match="no metric"):
        average_gap({})


def test_scaled_keeps_the_order_of_the_ends():
    points = rows_interval(low=-0.02).scaled(-100)
    assert (points.low, points.high) == (-1.0, 2.0)
