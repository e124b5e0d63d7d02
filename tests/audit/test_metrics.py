"""Point metrics against hand-computed values, scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from amu_fast.audit import metrics
from amu_fast.errors import DataError

P = np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5], [0.1, 0.6, 0.3]])
LABELS = np.array([0, 2, 0])


@pytest.fixture
def scores():
    """Two samples on a coarse grid, so that ties occur."""
    rng = np.random.default_rng(0)
    return np.round(rng.normal(0.4, 1, 70), 1), np.round(rng.normal(0, 1, 90), 1)


def test_modified_entropy_by_hand_with_unequal_labels():
    log = np.log
    expected = [
        (1 - 0.7) * log(0.7) + 0.2 * log(0.8) + 0.1 * log(0.9),
        (1 - 0.5) * log(0.5) + 0.25 * log(0.75) + 0.25 * log(0.75),
        (1 - 0.1) * log(0.1) + 0.6 * log(0.4) + 0.3 * log(0.7),
    ]
    np.testing.assert_allclose(metrics.modified_entropy(log(P), LABELS), expected, rtol=1e-13)


def test_phi_and_losses_by_hand():
    p_y = np.array([0.7, 0.5, 0.1])
    np.testing.assert_allclose(metrics.losses(np.log(P), LABELS), -np.log(p_y), rtol=1e-13)
    np.testing.assert_allclose(metrics.phi(np.log(P), LABELS), np.log(p_y / (1 - p_y)), rtol=1e-13)


def test_saturated_logits_stay_accurate():
    """p_y rounds to 1 at 60; clipping would put every such row on one value."""
    logits = np.array([[60.0, 0.0, 0.0], [80.0, 0.0, 0.0], [0.0, 800.0, 0.0]])
    labels = np.array([0, 0, 0])
    np.testing.assert_allclose(metrics.phi(logits, labels), [60 - np.log(2), 80 - np.log(2), -800], rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_of_every_float_type(dtype):
    logits = torch.tensor([[2.0, 1.0, 0.5], [0.0, 1.0, 4.0]], dtype=dtype, requires_grad=True)
    labels = torch.tensor([0, 1])
    expected = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none").detach().numpy()
    np.testing.assert_allclose(metrics.losses(logits, labels), expected, rtol=1e-14)
    assert metrics.losses(logits, labels).dtype == np.float64
    assert metrics.accuracy(logits, labels) == 0.5


def test_auc_is_the_share_of_pairs_with_ties_as_half(scores):
    from sklearn.metrics import roc_auc_score

    members, nonmembers = scores
    labels = np.r_[np.ones(len(members)), np.zeros(len(nonmembers))]
    assert metrics.auc(members, nonmembers) == pytest.approx(
        roc_auc_score(labels, np.r_[members, nonmembers]), abs=1e-14
    )
    one, other = metrics.placements(members, nonmembers)
    assert one.mean() == pytest.approx(other.mean(), abs=1e-14)
    assert metrics.auc([1.0, 1.0], [1.0]) == 0.5
    assert metrics.auc([2.0], [1.0]) == 1.0


def test_tpr_threshold_counts_false_positives_exactly(scores):
    members, nonmembers = scores
    for fpr in (0.01, 0.05, 0.1, 0.29, 0.5):
        threshold = metrics.threshold_at_fpr(nonmembers, fpr)
        assert (nonmembers > threshold).mean() <= fpr
        assert metrics.tpr_at_fpr(members, nonmembers, fpr) == (members > threshold).mean()
    distinct = np.arange(100.0)
    for fpr in (0.07, 0.28, 0.29, 0.57):
        assert (distinct > metrics.threshold_at_fpr(distinct, fpr)).sum() == round(100 * fpr)


def test_ties_at_the_threshold_are_not_members():
    assert metrics.tpr_at_fpr([1.0, 1.0, 1.0], [1.0] * 100, 0.05) == 0.0


def test_distribution_distances_against_scipy(scores):
    from scipy import stats

    assert metrics.ks_statistic(*scores) == pytest.approx(stats.ks_2samp(*scores).statistic, abs=1e-14)
    assert metrics.wasserstein_1(*scores) == pytest.approx(stats.wasserstein_distance(*scores), abs=1e-13)
    assert metrics.wasserstein_1([0.0, 1.0], [5.0, 6.0]) == 5.0
    assert metrics.ks_statistic(scores[0], scores[0]) == 0.0


def test_ks_is_not_zero_without_a_difference():
    """S10: .055 on average at 500 a side."""
    rng = np.random.default_rng(1)
    draws = [metrics.ks_statistic(rng.normal(size=500), rng.normal(size=500)) for _ in range(200)]
    assert 0.048 < np.mean(draws) < 0.062


def test_utility_and_collapse():
    assert metrics.utility(0.9, 0.55) == pytest.approx(0.35)
    assert metrics.collapsed(0.79, 0.90)
    assert not metrics.collapsed(0.81, 0.90)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.auc([1.0, float("nan")], [0.0]), "member scores hold nan in row 1; check the model"),
        (lambda: metrics.auc([], [0.0]), r"member scores must have shape \(n,\)"),
        (lambda: metrics.losses([1.0, 2.0], [0]), r"logits must have shape \(n, d\)"),
        (lambda: metrics.losses(np.full((2, 3), np.inf), [0, 1]), "logits hold inf in row 0"),
        (lambda: metrics.losses(P, [0, 1, 3]), r"labels must lie in 0 ... 2, got 3; the model has 3 outputs"),
        (lambda: metrics.losses(P, [0, 1, -1]), "got -1"),
        (lambda: metrics.losses(P, [0.0, 1.0, 2.0]), "labels must be integers, got float64"),
        (lambda: metrics.losses(P, [0, 1]), r"labels must have shape \(3,\)"),
        (lambda: metrics.phi(np.zeros((3, 1)), [0, 0, 0]), r"at least 2 classes.*pass \[0, z\]"),
        (lambda: metrics.tpr_at_fpr([1.0], [0.0], 1.0), r"fpr must lie in \(0, 1\), got 1.0"),
    ],
)
def test_errors_name_the_value_and_the_fix(call, message):
    with pytest.raises(DataError, match=message):
        call()
