"""Planning figures: the tables of S2, S5 and S7, and simulations or SciPy behind them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from amu_fast.audit import planning
from amu_fast.audit.delong import auc_interval
from amu_fast.audit.intervals import normal_quantile
from amu_fast.errors import DataError


@pytest.mark.parametrize(
    ("fpr", "factor", "members", "always"),
    [
        (0.05, 2, 179, 203),
        (0.05, 3, 59, 68),
        (0.01, 2, 969, 1091),
        (0.01, 3, 303, 392),
        (0.001, 2, 9718, 10940),
        (0.001, 3, 3049, 3945),
    ],
)
def test_members_for_a_rate_are_those_of_s5(fpr, factor, members, always):
    assert planning.members_for_rate(fpr, factor) == members
    assert planning.members_for_rate(fpr, factor, always=True) == always


def test_members_for_a_rate_by_enumeration():
    """Power from binomial sums: 179 members have it, 178 and 202 do not, and every number from 203 on does."""
    from scipy.stats import binom

    def power(m):
        k = np.flatnonzero(binom.cdf(np.arange(m), m, 0.1) <= 0.05)
        return binom.cdf(k.max(), m, 0.05) if len(k) else 0.0

    assert power(179) >= 0.8 > max(power(178), power(202))
    assert min(power(m) for m in range(203, 300)) >= 0.8


def test_rows_are_those_of_s7():
    margins = (0.01, 0.02, 0.03, 0.04, 0.05, 0.1)
    assert [planning.rows_for_equivalence(m) for m in margins] == [14274, 3569, 1586, 893, 571, 143]
    at_half = [planning.rows_for_equivalence(m, truth=m / 2) for m in margins]
    assert at_half == [41218, 10305, 4580, 2577, 1649, 413]


def test_smallest_margins_are_those_of_s7():
    margins = [round(planning.smallest_margin(m), 3) for m in (200, 500, 1000, 5000)]
    assert margins == [0.060, 0.038, 0.027, 0.012]
    assert planning.smallest_margin(571, 571) == pytest.approx(0.05, rel=1e-3)
    assert planning.smallest_margin(500, 500) > planning.smallest_margin(500, 5000)


def test_six_units_carry_two_hundredths():
    """S7: 6 units of 500 x 2,000 rows have power .79 for a margin of .02."""
    deviation = planning.auc_deviation(500, 2000)
    assert deviation == pytest.approx(math.sqrt((1 / 500 + 1 / 2000) / 12), rel=1e-3)
    assert planning.equivalence_power(0.02, deviation, 6) == pytest.approx(0.80, abs=0.015)
    assert planning.units_for_equivalence(0.02, deviation) == 7
    assert planning.units_for_equivalence(0.02, deviation, power=0.78) == 6


def test_effects_are_those_of_s2():
    assert [round(planning.effect_for(units), 1) for units in (5, 8, 10)] == [1.7, 1.2, 1.0]
    assert [planning.units_for(effect) for effect in (1.69, 1.16, 1.0)] == [5, 8, 10]


def test_t_power_is_scipys_non_central_t():
    from scipy.stats import nct, t

    for effect, units in ((0.0, 5), (0.5, 10), (1.7, 5), (1.0, 30), (4.0, 3)):
        critical, shift = t.ppf(0.975, units - 1), effect * math.sqrt(units)
        expected = nct.sf(critical, units - 1, shift) + nct.cdf(-critical, units - 1, shift)
        assert planning.t_power(effect, units) == pytest.approx(expected, abs=1e-6)
    assert planning.t_power(-1.7, 5) == planning.t_power(1.7, 5)


def test_equivalence_power_is_the_simulated_one():
    from scipy.stats import t

    rng = np.random.default_rng(0)
    x = rng.normal(0, 1.0, (100_000, 6))
    passed = np.abs(x.mean(1)) + t.ppf(0.95, 5) * x.std(1, ddof=1) / math.sqrt(6) < 1.4
    error = math.sqrt(passed.mean() * (1 - passed.mean()) / len(x))
    assert planning.equivalence_power(1.4, 1.0, 6) == pytest.approx(passed.mean(), abs=3 * error)
    # With many units the deviation is known: z_.95 + z_.90 standard errors.
    margin = (normal_quantile(0.9) + normal_quantile(0.8)) / math.sqrt(5000)
    assert planning.equivalence_power(margin, 1.0, 5000) == pytest.approx(0.8, abs=0.001)


def test_hanley_mcneil_is_delongs_deviation_for_exponential_scores():
    """On average over samples, at A = .5 and at A = .8 (the formula's own model: exponentials, ratio A/(1-A))."""
    rng = np.random.default_rng(1)
    for area in (0.5, 0.8):
        widths = []
        for _ in range(200):
            interval = auc_interval(rng.exponential(area / (1 - area), 400), rng.exponential(1.0, 400))
            widths.append((interval.high - interval.low) / (2 * normal_quantile(0.95)))
        assert planning.auc_deviation(400, 400, area) == pytest.approx(np.mean(widths), rel=0.02)


def test_impossible_plans_are_refused():
    with pytest.raises(DataError, match="smaller than the margin"):
        planning.rows_for_equivalence(0.05, truth=0.05)
    with pytest.raises(DataError, match="factor must exceed 1"):
        planning.members_for_rate(0.01, 1)
    with pytest.raises(DataError, match="power must lie in"):
        planning.smallest_margin(500, power=1.0)
    with pytest.raises(DataError, match="at least 2 units"):
        planning.t_power(1.0, 1)
    with pytest.raises(DataError, match="more than 10000000 units would be needed"):
        planning.units_for(1e-6)
    with pytest.raises(DataError, match="members must be > 0"):
        planning.auc_deviation(0, 5)
    with pytest.raises(DataError, match="at 0 or 1"):
        planning.auc_deviation(5, 5, 1.0)
