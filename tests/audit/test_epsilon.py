"""The lower bound on epsilon: its ceiling, its level, and that it finds what is there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from amu_fast.audit.epsilon import epsilon_ceiling, epsilon_lower_bound
from amu_fast.errors import DataError


def test_ceilings_are_those_of_s14():
    assert [round(epsilon_ceiling(n), 2) for n in (16, 64, 512)] == [1.35, 2.82, 4.93]
    assert [round(epsilon_ceiling(n, 500), 2) for n in (16, 64, 512)] == [0.15, 1.79, 3.94]


def test_ceiling_is_its_closed_form():
    q = (0.05 / 2) ** (1 / 16)
    assert epsilon_ceiling(16) == pytest.approx(math.log(q / (1 - q)), abs=1e-12)


def test_worlds_apart_reach_the_ceiling_from_either_side():
    rng = np.random.default_rng(0)
    low, high = rng.uniform(0, 1, (32, 3)), rng.uniform(2, 3, (32, 3))
    for forgotten, never in ((high, low), (low, high)):
        bound = epsilon_lower_bound(forgotten, never)
        assert bound.low == bound.ceiling == pytest.approx(epsilon_ceiling(16, 3))
        assert (bound.judged, bound.examples, len(bound.per_example)) == ((16, 16), 3, 3)


def test_one_leaking_row_among_many_is_found():
    rng = np.random.default_rng(1)
    forgotten, never = rng.normal(size=(400, 20)), rng.normal(size=(400, 20))
    forgotten[:, 7] += 4.0
    bound = epsilon_lower_bound(forgotten, never)
    assert bound.example == 7
    assert bound.per_example[7] == bound.low > 2.0
    assert max(np.delete(bound.per_example, 7)) < 0.5


def test_a_known_epsilon_is_bounded_from_below_and_approached():
    """Randomised response with epsilon 1: TPR/FPR = e at its only threshold."""
    rng = np.random.default_rng(2)
    truth = math.e / (1 + math.e)
    bounds = [
        epsilon_lower_bound(rng.random(3000) < truth, rng.random(3000) < 1 - truth, seed=seed).low for seed in range(8)
    ]
    assert np.mean(np.array(bounds) > 1.0) <= 0.15
    assert np.mean(bounds) > 0.8


def test_identical_worlds_give_zero():
    rng = np.random.default_rng(3)
    bounds = [epsilon_lower_bound(rng.normal(size=64), rng.normal(size=64), seed=s).low for s in range(40)]
    assert np.mean(np.array(bounds) > 0) <= 0.15


def test_too_few_models_are_refused():
    with pytest.raises(DataError, match="at least 16 forgotten and 16 never models, got 16 and 15"):
        epsilon_lower_bound(np.zeros(16), np.zeros(15))
    with pytest.raises(DataError, match="same rows, got 2 and 3"):
        epsilon_lower_bound(np.zeros((16, 2)), np.zeros((16, 3)))
    with pytest.raises(DataError, match="got 0 and 1"):
        epsilon_ceiling(0)
