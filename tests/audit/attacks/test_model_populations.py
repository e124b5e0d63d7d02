"""Forget quality, the bound on epsilon and KLoM: hand-computed tables, independent code, nulls, ceilings."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from amu_fast.audit.attacks import ForgetQuality, Klom
from amu_fast.audit.attacks.forget_quality import interval_rates, single_rates
from amu_fast.errors import DataError

LADDER = np.array([0.0, 1.0, 2.0, 3.0])
# rows: overlapping by one step, identical, apart, one model that always says the same
UNLEARNED = np.stack([LADDER, LADDER, LADDER, np.array([0.5, 0.5, 0.5, 0.5])], 1)
RETRAINED = np.stack([LADDER + 2.5, LADDER, LADDER + 10, LADDER], 1)


def test_forget_quality_by_hand():
    """Row 1: of all attacks only FPR = FNR = 1/4 survives, eps = log(.75/.25); bins 3, 1, beyond, beyond."""
    result = ForgetQuality(delta=0.0).run((UNLEARNED, RETRAINED), accuracies=((0.9, 0.8), (1.0, 0.8)))
    np.testing.assert_allclose(result.epsilon, [np.log(3), 0, 50, 50])
    assert result.quality == pytest.approx((0.25 + 1) / 4)
    assert result.score == pytest.approx(0.9 * 1.25 / 4)
    assert (result.name, result.models) == ("forget quality, N = 4", 4)
    assert ForgetQuality().run((UNLEARNED, RETRAINED)).score is None


def test_delta_enters_the_numerator():
    result = ForgetQuality(delta=0.1).run((UNLEARNED[:, :1], RETRAINED[:, :1]))
    assert result.epsilon[0] == pytest.approx(np.log(0.65 / 0.25))


def test_attacks_with_exactly_one_zero_rate_are_dropped():
    """Without that rule row 1 would be infinite: the threshold 3.25 has FPR 0 and FNR 1/4."""
    fpr, fnr = single_rates(UNLEARNED[:, 0], RETRAINED[:, 0])
    assert ((fpr == 0) & (fnr == 0.25)).any()
    assert ForgetQuality().run((UNLEARNED[:, :1], RETRAINED[:, :1])).epsilon[0] < 1.2


@pytest.mark.parametrize(("models", "bins"), [(4, 4), (512, 14)])
def test_bins_of_the_code_depend_on_n(models, bins):
    """The text always has 13; the code ceil(log(N - 1)) in steps of a half."""
    epsilon = bins / 2 - 0.25
    last = 0.5 ** (bins - 1)
    table = np.random.default_rng(0).normal(size=(models, 1))
    for value, expected in ((epsilon, last), (epsilon + 0.5, 0.0)):
        estimator = Fixed(bins=None, value=value)
        assert estimator.run((table, table)).quality == expected


class Fixed(ForgetQuality):
    """An estimate that is given."""

    def __init__(self, bins, value):
        super().__init__(bins=bins)
        object.__setattr__(self, "value", value)

    def _epsilon(self, unlearned, retrained):
        return self.value


def test_rates_are_those_of_direct_comparison():
    rng = np.random.default_rng(1)
    u, r = rng.normal(0, 0.6, 9), rng.normal(0.8, 1.0, 9)  # u is peaked, r has the larger median
    low, high = min(u.min(), r.min()), max(u.max(), r.max())
    thresholds = np.linspace(low, high, int(np.ceil((high - low) * 100)))
    expected = [(u[:, None] >= thresholds).mean(0), (r[:, None] < thresholds).mean(0)]
    np.testing.assert_allclose(single_rates(u, r), expected)
    right = np.linspace(u.max() - 2, u.max() + 2, 400)
    left = np.add.outer(right - np.ptp(u), np.linspace(-2, 2, 400)).ravel()
    right = np.repeat(right, 400)
    inside = [((x[:, None] >= left) & (x[:, None] <= right)).mean(0) for x in (r, u)]
    np.testing.assert_allclose(interval_rates(u, r), [inside[0], 1 - inside[1]])


def test_identical_distributions_look_bad_at_every_n():
    """The estimate is biased upward at the null (S14), so figures stand beside retrain against retrain."""
    rng = np.random.default_rng(2)
    means = [ForgetQuality().run((rng.normal(size=(n, 12)), rng.normal(size=(n, 12)))).epsilon.mean() for n in (16, 64)]
    assert min(means) > 0.8


def test_intervals_find_a_peaked_side_that_thresholds_miss():
    rng = np.random.default_rng(3)
    u, r = 0.2 * rng.normal(size=(64, 4)), 3 * rng.normal(size=(64, 4))
    assert (ForgetQuality().run((u, r)).epsilon > 2).all()


def test_klom_by_hand():
    """20 bins of width 1 over [0, 20]: p = (1/2, 1/2) in bins 0 and 1, q = (1/4, 1/4, 1/2 in the last)."""
    unlearned = np.array([0.5, 0.6, 1.5, 1.6])[:, None]
    oracle = np.array([0.0, 1.5, 20.0, 20.0])[:, None]
    result = Klom(min_models=4).run((unlearned, oracle))
    assert result.per_row[0] == pytest.approx(np.log(2))


def test_klom_keeps_the_maximum():
    """numpy's digitize puts the largest margin beyond the last bin and loses it."""
    unlearned, oracle = np.full((4, 1), 20.0), np.array([0.0, 20.0, 20.0, 20.0])[:, None]
    assert Klom(min_models=4).run((unlearned, oracle)).per_row[0] == pytest.approx(np.log(4 / 3))
    edges = np.linspace(0, 20, 21)
    assert (np.digitize(unlearned, edges) == 21).all()


def test_klom_is_scipys_entropy_of_histograms_and_clips_at_100():
    rng = np.random.default_rng(6)
    u, o = rng.normal(0, 1, (120, 5)), rng.normal(1, 1.3, (150, 5))
    u[0, 0] = 5000.0
    per_row = Klom().run((u, o)).per_row
    for row in range(5):
        a, b = np.clip(u[:, row], -100, 100), np.clip(o[:, row], -100, 100)
        edges = np.linspace(min(a.min(), b.min()), max(a.max(), b.max()), 21)
        p, q = np.histogram(a, edges)[0] / 120, np.histogram(b, edges)[0] / 150
        expected = stats.entropy(p, np.where(p > 0, np.maximum(q, 1e-5), q))
        assert per_row[row] == pytest.approx(expected)


def test_klom_of_disjoint_sides_and_of_equal_ones():
    apart = Klom().run((np.zeros((100, 2)), np.ones((100, 2))))
    np.testing.assert_allclose(apart.per_row, np.log((1 + 1e-5) / 1e-5))
    assert Klom().run((np.zeros((100, 2)), np.zeros((100, 2)))).percentile_95 == 0.0


def test_klom_has_a_floor_that_is_not_zero():
    rng = np.random.default_rng(7)
    u, o, other = rng.normal(size=(3, 100, 40))
    result = Klom().run((u, o), other_oracles=other)
    assert result.floor > 0.1
    assert result.percentile_95 == pytest.approx(result.floor, rel=0.7)
    assert Klom().run((u, o)).floor is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ForgetQuality().run((np.ones((3, 2)), np.ones((4, 2)))), r"got \(3, 2\) and \(4, 2\)"),
        (lambda: Klom().run((np.ones((99, 2)), np.ones((100, 2)))), "needs 100 models of each kind, got 99 and 100"),
        (lambda: Klom().run((np.ones((100, 2)), np.ones((100, 3)))), "the same rows, got 2 and 3"),
        (
            lambda: Klom().run((np.ones((100, 2)), np.ones((100, 2))), other_oracles=np.ones((50, 2))),
            "as many oracles as unlearned models",
        ),
        (lambda: Klom().run((np.full((100, 2), np.nan), np.ones((100, 2)))), "unlearned hold nan"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(DataError, match=message):
        call()
