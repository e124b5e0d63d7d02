"""Permutation tests: exact in a small case, uniform under the null, honest about trained pipelines and persons."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from amu_fast.audit.metrics import auc
from amu_fast.audit.permutation import permutation_test
from amu_fast.errors import DataError


def difference(a, b):
    return float(a.mean() - b.mean())


def test_p_tends_to_the_exact_enumeration():
    members, nonmembers = np.array([3.1, 2.0, 4.5]), np.array([1.0, 2.2, 0.3, 2.9])
    rows = np.concatenate([members, nonmembers])
    values = []
    for chosen in combinations(range(7), 3):
        mask = np.isin(np.arange(7), chosen)
        values.append(difference(rows[mask], rows[~mask]))
    exact = np.mean(np.array(values) >= difference(members, nonmembers) - 1e-12)
    test = permutation_test(difference, members, nonmembers, draws=8000)
    assert test.p == pytest.approx(exact, abs=0.01)
    assert test.value == difference(members, nonmembers)


def test_the_smallest_p_is_one_over_draws_plus_one():
    test = permutation_test(difference, np.arange(20.0) + 100, np.arange(20.0))
    assert test.p == 1 / 1000


def test_the_same_seed_gives_the_same_null_and_constant_rows_p_1():
    rows = np.arange(9.0)
    first, again = (permutation_test(difference, rows, rows, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.null, again.null)
    assert permutation_test(difference, np.ones(5), np.ones(6)).p == 1.0


def cross_fitted(members, nonmembers):
    """A direction learned on one half and judged on the other, both halves in turn."""
    areas = []
    for a, b in ((0, 1), (1, 0)):
        direction = members[a::2].mean(axis=0) - nonmembers[a::2].mean(axis=0)
        areas.append(auc(members[b::2] @ direction, nonmembers[b::2] @ direction))
    return sum(areas) / 2


def test_a_trained_pipeline_is_repeated_as_a_whole():
    rng = np.random.default_rng(0)
    noise = permutation_test(cross_fitted, rng.normal(size=(24, 2)), rng.normal(size=(24, 2)))
    assert noise.p > 0.05
    signal = permutation_test(cross_fitted, rng.normal(size=(24, 2)) + 1.5, rng.normal(size=(24, 2)))
    assert signal.p < 0.01


def test_persons_change_sides_whole():
    """One person with many alike rows is one observation: p can be no smaller than 1 in C(4, 2)."""
    members, nonmembers = np.repeat([5.0, 6.0], 50), np.repeat([1.0, 2.0], 50)
    ids = np.repeat([0, 1], 50), np.repeat([2, 3], 50)
    assert permutation_test(difference, members, nonmembers).p < 0.01
    assert permutation_test(difference, members, nonmembers, clusters=ids).p == pytest.approx(1 / 6, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draws": 99}, r"draws must be >= 999 \(S3\), got 99"),
        ({"nonmembers": np.ones((4, 2))}, r"rows of one shape, got \(4,\) and \(4, 2\)"),
        ({"clusters": (np.arange(4), np.arange(3))}, r"one person per row, \(4, 4\), got \(4, 3\)"),
        ({"clusters": (np.arange(4), np.arange(3, 7))}, "1 persons have rows on both sides, among them .*3"),
        ({"statistic": lambda a, b: float("nan")}, "must be finite, got nan"),
    ],
)
def test_refusals(arguments, message):
    given = {"statistic": difference, "members": np.ones(4), "nonmembers": np.ones(4)} | arguments
    with pytest.raises(DataError, match=message):
        permutation_test(**given)
