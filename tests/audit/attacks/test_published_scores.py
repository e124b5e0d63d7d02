"""Modified entropy, MIA-efficacy and distances of losses: hand-computed values, nulls, and faults of released code."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp, norm, wasserstein_distance

from amu_fast.audit.attacks import (
    CalibratedLoss,
    ConfidenceSvm,
    LossDistances,
    LossThreshold,
    ModifiedEntropy,
    Outputs,
    SplitOutputs,
)
from amu_fast.audit.delong import auc_difference, auc_interval
from amu_fast.errors import DataError
from amu_fast.protocols import Attack

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.5, 0.25, 0.25]])
LABELS = np.array([0, 2, 1])
# -[ -(1 - p_y) log p_y - sum_{i != y} p_i log(1 - p_i) ], term by term
BY_HAND = np.array(
    [
        0.3 * np.log(0.7) + 0.2 * np.log(0.8) + 0.1 * np.log(0.9),
        0.4 * np.log(0.6) + 0.1 * np.log(0.9) + 0.3 * np.log(0.7),
        0.75 * np.log(0.25) + 0.5 * np.log(0.5) + 0.25 * np.log(0.75),
    ]
)


def of_p(p, labels):
    return Outputs.from_probabilities(p, labels)


def gaussian_phi(rng, rows, shift=0.0):
    phi = rng.normal(shift, 1, rows)
    return Outputs.from_logits(np.stack([phi, 0 * phi], 1), np.zeros(rows, int))


def test_modified_entropy_by_hand_with_unequal_labels():
    result = ModifiedEntropy().run(SplitOutputs(of_p(P, LABELS), of_p(P[::-1], LABELS[::-1])))
    np.testing.assert_allclose(result.member_scores, BY_HAND, rtol=1e-12)
    np.testing.assert_allclose(result.nonmember_scores, BY_HAND[::-1], rtol=1e-12)
    assert isinstance(ModifiedEntropy(), Attack)


def test_the_wrong_variants_give_other_figures():
    """What the released variants compute for the same rows, so that the test above would fail on them."""
    rows = np.arange(3)
    log_p_for_log_1_p = -(1 - P[rows, LABELS]) * np.log(P[rows, LABELS])
    others = P.copy()
    others[rows, LABELS] = 0
    first = -(log_p_for_log_1_p - (others * np.log(P)).sum(axis=1))
    columns = P.copy()
    columns[:, LABELS] = 1 - P[:, LABELS]  # every listed column of every row
    log_rest = np.log(np.maximum(1 - P, 1e-30))
    log_rest[:, LABELS] = np.log(P[:, LABELS])
    second = (columns * log_rest).sum(axis=1)
    q = P.copy()
    q[rows, LABELS] = 1 - P[rows, LABELS]
    third = (q * np.log(q)).sum(axis=1)
    for wrong in (first, second, third):
        assert np.abs(wrong - BY_HAND).max() > 0.05


def test_modified_entropy_of_a_certain_and_wrong_answer_is_finite_and_low():
    right, wrong = of_p([[1.0, 0.0], [1.0, 0.0]], [0, 0]), of_p([[1.0, 0.0], [1.0, 0.0]], [1, 1])
    result = ModifiedEntropy().run(SplitOutputs(right, wrong))
    np.testing.assert_allclose(result.member_scores, 0.0, atol=1e-25)
    assert result.nonmember_scores.max() < np.log(1e-30)
    assert result.auc.value == 1.0


def test_modified_entropy_needs_logits():
    with pytest.raises(DataError, match="needs logits and labels, which scores lack"):
        ModifiedEntropy().run((np.arange(5.0), np.arange(5.0)))


def efficacy_target(forget, retain, test):
    """Two-class outputs with these probabilities of the true class 0."""
    parts = [of_p(np.stack([p, 1 - p], 1), np.zeros(len(p), int)) for p in map(np.asarray, (forget, test, retain))]
    return SplitOutputs(parts[0], parts[1], retain=parts[2])


def test_efficacy_is_the_published_recipe():
    """Members are the first |test| retain rows, in order; the share of forget rows on the test rows' side."""
    from sklearn.svm import SVC

    rng = np.random.default_rng(0)
    retain, test, forget = rng.beta(8, 1, 90), rng.beta(2, 2, 40), rng.beta(4, 1, 25)
    result = ConfidenceSvm().run(efficacy_target(forget, retain, test))
    x = np.concatenate([retain[:40], test])[:, None]
    model = SVC(C=3, kernel="rbf", gamma="auto").fit(x, np.repeat([1, 0], 40))
    assert result.efficacy.value == pytest.approx((model.predict(forget[:, None]) == 0).mean())
    assert result.training_accuracy == pytest.approx(model.score(x, np.repeat([1, 0], 40)))
    assert 0 < result.efficacy.value < 1


def test_efficacy_of_a_model_that_memorises_is_0_and_of_retrain_is_1():
    retain, test = np.full(50, 0.999), np.full(50, 0.4)
    remembered = ConfidenceSvm().run(efficacy_target(np.full(30, 0.999), retain, test))
    forgotten = ConfidenceSvm().run(efficacy_target(np.full(30, 0.4), retain, test))
    assert (remembered.efficacy.value, forgotten.efficacy.value) == (0.0, 1.0)
    assert remembered.efficacy.high < 0.15
    assert forgotten.efficacy.low > 0.85
    assert remembered.training_accuracy == 1.0


def test_efficacy_refusals():
    with pytest.raises(DataError, match="at least as many retain rows as test rows, got 5 and 6"):
        ConfidenceSvm().run(efficacy_target(np.full(3, 0.5), np.full(5, 0.5), np.full(6, 0.5)))
    with pytest.raises(DataError, match="penalty must be > 0"):
        ConfidenceSvm(penalty=0.0)
    with pytest.raises(DataError, match="needs the retain rows"):
        ConfidenceSvm().run((np.arange(3.0), np.arange(3.0)))


def test_distances_are_scipys():
    rng = np.random.default_rng(1)
    forget, test = gaussian_phi(rng, 80, 0.8), gaussian_phi(rng, 120)
    result = LossDistances().run(SplitOutputs(forget, test))
    assert result.ks.value == pytest.approx(ks_2samp(forget.loss, test.loss).statistic)
    assert result.wasserstein.value == pytest.approx(wasserstein_distance(forget.loss, test.loss))
    assert max(result.ks.p, result.wasserstein.p) < 0.01


def test_distances_of_one_distribution_look_large_and_are_not():
    """KS is about .055 at 500 a side under the null (S10); the p-values are uniform."""
    rng = np.random.default_rng(2)
    result = LossDistances().run(SplitOutputs(gaussian_phi(rng, 500), gaussian_phi(rng, 500)))
    assert result.ks.null.mean() == pytest.approx(0.055, abs=0.004)
    assert abs(result.ks.excess) < 0.04
    p = [
        LossDistances(seed=seed).run(SplitOutputs(gaussian_phi(rng, 20), gaussian_phi(rng, 20))).wasserstein.p
        for seed in range(8)
    ]
    assert 0.3 < np.mean(p) < 0.7


def clustered(rng, persons, rows_each, shift=0.0):
    easiness = np.repeat(rng.normal(0, 1, persons), rows_each)
    phi = shift + easiness + 0.3 * rng.normal(size=persons * rows_each)
    outputs = Outputs.from_logits(np.stack([phi, 0 * phi], 1), np.zeros(len(phi), int))
    return Outputs(outputs.scores, outputs.loss, outputs.phi, outputs.correct, outputs.labels, np.arange(len(phi)) // 8)


def test_intervals_are_by_person_where_outputs_name_them():
    rng = np.random.default_rng(3)
    target, retrain = (SplitOutputs(clustered(rng, 30, 8, shift), clustered(rng, 40, 8)) for shift in (0.5, 0.0))
    clusters = target.clusters()
    result = LossThreshold().run(target)
    sides = -target.forget.loss, -target.test.loss
    assert result.auc == auc_interval(*sides, clusters=clusters)
    by_row = auc_interval(*sides)
    assert result.auc.high - result.auc.low > 1.5 * (by_row.high - by_row.low)
    assert "S4" in result.tpr[0.05].note
    other = LossThreshold().run(retrain)
    expected = auc_difference(sides, (-retrain.forget.loss, -retrain.test.loss), clusters=clusters)
    assert result.difference_to(other) == expected
    assert CalibratedLoss((retrain,)).run(target).clusters is not None


def test_distances_permute_whole_persons():
    """8 rows a person: permuted by rows, the null is far too narrow and everything looks significant."""
    rng = np.random.default_rng(4)
    target = SplitOutputs(clustered(rng, 12, 8), clustered(rng, 12, 8))
    names = SplitOutputs(target.forget, named(target.test, np.arange(96) // 8 + 100))
    by_person = LossDistances().run(names)
    by_row = LossDistances().run(SplitOutputs(named(target.forget, None), named(target.test, None)))
    assert by_person.ks.null.mean() > 1.5 * by_row.ks.null.mean()


def named(outputs, clusters):
    return Outputs(outputs.scores, outputs.loss, outputs.phi, outputs.correct, outputs.labels, clusters)


def test_clusters_of_one_side_are_refused():
    plain = gaussian_phi(np.random.default_rng(5), 16)
    with pytest.raises(DataError, match="one side only; give the test rows theirs too"):
        LossThreshold().run(SplitOutputs(named(plain, np.arange(16)), plain))
    with pytest.raises(DataError, match=r"one person per row, \(16,\), got \(15,\)"):
        named(plain, np.arange(15))


@pytest.mark.parametrize("attack", [LossThreshold(fprs=(0.1,)), ModifiedEntropy(fprs=(0.1,))])
def test_gaussians_have_their_closed_form(attack):
    """Loss and modified entropy fall with phi for two classes, so AUC = Phi(delta/sqrt 2) and TPR is known."""
    rng = np.random.default_rng(6)
    result = attack.run(SplitOutputs(gaussian_phi(rng, 1500, 1.0), gaussian_phi(rng, 1500)))
    assert result.auc.contains(norm.cdf(1 / np.sqrt(2)))
    assert result.tpr[0.1].contains(norm.cdf(1.0 - norm.ppf(0.9)))
