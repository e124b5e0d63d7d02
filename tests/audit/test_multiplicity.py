"""Holm by hand and against the definition; intervals decide as their p values do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from amu_fast.audit.intervals import Interval, normal_quantile
from amu_fast.audit.multiplicity import IntervalTest, holm, holm_intervals, intersection_union
from amu_fast.errors import DataError


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.5, 0.6]) == (1.0, 1.0)
    assert holm([0.02]) == (0.02,)
    with pytest.raises(DataError, match="must lie in"):
        holm([0.5, 1.2])


def test_holm_is_the_closed_test_of_bonferronis():
    """A hypothesis falls iff every subset that holds it is refused by Bonferroni: the definition, for all subsets."""
    p = np.random.default_rng(0).uniform(0, 0.08, 5)
    for alpha in (0.01, 0.05, 0.1):
        closed = []
        for i in range(5):
            subsets = [s for r in range(1, 6) for s in itertools.combinations(range(5), r) if i in s]
            closed.append(all(min(p[list(s)]) <= alpha / len(s) for s in subsets))
        assert [adjusted <= alpha for adjusted in holm(p)] == closed


def test_intervals_decide_as_their_p_values_do():
    from scipy.stats import norm

    rng = np.random.default_rng(1)
    for _ in range(50):
        z = rng.normal(1.5, 1.5, 4)
        tests = [IntervalTest(lambda level, z=z_: _normal(z, level), lambda i: not i.contains(0.0)) for z_ in z]
        decided = [step.rejected for step in holm_intervals(tests)]
        assert decided == [adjusted <= 0.05 for adjusted in holm(2 * norm.sf(np.abs(z)))]


def test_what_cannot_be_tested_counts():
    certain = IntervalTest(lambda level: _normal(2.1, level), lambda i: not i.contains(0.0))
    assert holm_intervals([certain])[0].rejected
    steps = holm_intervals([certain, None])
    assert not steps[0].rejected
    assert steps[0].interval.level == 0.975
    assert steps[1] is None
    assert holm_intervals([]) == ()
    with pytest.raises(DataError, match="alpha"):
        holm_intervals([certain], alpha=5.0)


def test_all_of_nothing_is_refused():
    assert intersection_union([True, True])
    assert not intersection_union([True, False])
    with pytest.raises(DataError, match="no claim"):
        intersection_union([])


def _normal(z, level):
    half = normal_quantile(level)
    return Interval(z, z - half, z + half, level, "this model", "normal", (100,))
