"""TPR at a small FPR: the shortcut is the bootstrap, coverage, and the floors of S5."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from amu_fast.audit import roc
from amu_fast.audit.metrics import tpr_at_fpr
from amu_fast.audit.roc import roc_curve, tpr_difference, tpr_interval
from amu_fast.errors import DataError


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return rng.normal(1, 1, 300), rng.normal(0, 1, 400)


def test_the_order_statistic_shortcut_is_the_resampling_bootstrap(scores):
    members, nonmembers = (np.sort(side) for side in scores)
    rng, draws = np.random.default_rng(1), 4000
    resampled = [
        tpr_at_fpr(rng.choice(members, len(members)), rng.choice(nonmembers, len(nonmembers)), 0.05)
        for _ in range(draws)
    ]
    shortcut = roc._bootstrap_rates(members, nonmembers, 20, 20 * draws, seed=2)
    assert shortcut.mean() == pytest.approx(np.mean(resampled), abs=4 * np.std(resampled) / np.sqrt(draws))
    np.testing.assert_allclose(
        np.quantile(shortcut, [0.05, 0.5, 0.95]), np.quantile(resampled, [0.05, 0.5, 0.95]), atol=0.012
    )


@pytest.mark.parametrize(("m", "n", "fpr", "shift"), [(500, 1000, 0.01, 1.0), (200, 400, 0.05, 0.0)])
def test_coverage(m, n, fpr, shift):
    rng, truth = np.random.default_rng(3), ndtr(shift - ndtri(1 - fpr))
    hits = [tpr_interval(rng.normal(shift, 1, m), rng.normal(0, 1, n), fpr, seed=i).contains(truth) for i in range(500)]
    assert 0.92 < np.mean(hits) < 0.99


def test_seeded_and_never_of_width_zero(scores):
    assert tpr_interval(*scores, 0.05) == tpr_interval(*scores, 0.05)
    assert tpr_interval(*scores, 0.05, seed=1) != tpr_interval(*scores, 0.05)
    none = tpr_interval(np.arange(50.0), np.arange(100.0, 1200.0), 0.01)
    every = tpr_interval(np.arange(2000.0, 2050.0), np.arange(1100.0), 0.01)
    assert (none.value, none.low) == (0, 0)
    assert none.high > 0.05
    assert (every.value, every.high) == (1, 1)
    assert every.low < 0.95


def test_too_few_rows_for_a_claim_are_noted(scores):
    assert tpr_interval(*scores, 0.05).note == ""
    note = tpr_interval(*scores, 0.01).note
    assert note == "300 members and 400 non-members; a claim at FPR 0.01 needs 500 and 1000"


def test_difference_is_paired(scores):
    rng = np.random.default_rng(4)
    noisy = tuple(side + rng.normal(0, 0.1, len(side)) for side in scores)
    interval = tpr_difference(scores, noisy, 0.05)
    assert interval.value == tpr_at_fpr(*scores, 0.05) - tpr_at_fpr(*noisy, 0.05)
    assert interval.contains(0.0)
    assert interval.high - interval.low < 0.6 * np.ptp(
        [tpr_interval(*scores, 0.05).low, tpr_interval(*scores, 0.05).high]
    )
    same = tpr_difference(scores, scores, 0.05)
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_difference_in_chunks_covers_a_true_gap(monkeypatch):
    monkeypatch.setattr(roc, "ROWS_PER_CHUNK", 50_000)
    rng, hits = np.random.default_rng(5), []
    truth = ndtr(1 - ndtri(0.95)) - 0.05
    for i in range(60):
        common = rng.normal(size=150), rng.normal(size=200)
        shifted, plain = (
            (0.8 * common[0] + 0.6 * rng.normal(size=150) + s, 0.8 * common[1] + 0.6 * rng.normal(size=200))
            for s in (1.0, 0.0)
        )
        hits.append(tpr_difference(shifted, plain, 0.05, seed=i).contains(truth))
    assert np.mean(hits) > 0.88


def test_curve_starts_at_ten_over_n_and_its_bands_enclose_it(scores):
    curve = roc_curve(*scores)
    assert curve.fpr[0] == 10 / 400
    assert curve.fpr[-1] == curve.tpr[-1] == 1
    assert (np.diff(curve.fpr) > 0).all()
    assert (np.diff(curve.tpr) >= 0).all()
    assert (curve.low <= curve.tpr).all()
    assert (curve.tpr <= curve.high).all()
    for fpr, tpr in zip(curve.fpr[:-1], curve.tpr[:-1], strict=True):
        assert tpr == tpr_at_fpr(*scores, fpr)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: roc_curve(np.ones(5), np.ones(20)), "more than 20 non-members, got 20"),
        (
            lambda: tpr_interval(np.ones(5), np.ones(50), 0.1, draws=100),
            r"draws must be >= 1000 \(S5\), got 100",
        ),
        (
            lambda: tpr_difference((np.ones(5), np.ones(9)), (np.ones(4), np.ones(9)), 0.1),
            "same member rows, got 5 and 4",
        ),
        (lambda: tpr_interval(np.ones(5), np.ones(50), 5), r"fpr must lie in \(0, 1\), got 5"),
    ],
)
def test_errors_name_the_value_and_the_fix(call, message):
    with pytest.raises(DataError, match=message):
        call()
