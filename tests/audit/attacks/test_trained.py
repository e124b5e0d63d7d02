"""The paper's attack and the linear SVM: against scikit-learn, under the null, and on signals only one can see."""

from __future__ import annotations

import numpy as np
import pytest

from amu_fast.audit.attacks import LinearSvmAttack, LossThreshold, Outputs, PaperAttack, SplitOutputs
from amu_fast.audit.attacks.svm import fit_margin
from amu_fast.audit.metrics import auc
from amu_fast.errors import DataError
from amu_fast.protocols import Attack


def outputs(rng, rows, shift=0.0, side_channel=0.0):
    """Logits of 4 classes; members may have a higher true logit, or a mark in the difference of two others."""
    logits = rng.normal(size=(rows, 4))
    logits[:, 0] += 2 + shift
    logits[:, 2] += side_channel
    logits[:, 3] -= side_channel
    return Outputs.from_logits(logits, np.zeros(rows, int))


def target(seed, rows=(200, 200, 200), **signal):
    rng = np.random.default_rng(seed)
    return SplitOutputs(outputs(rng, rows[0], **signal), outputs(rng, rows[1]), outputs(rng, rows[2]))


def test_paper_attack_is_the_cross_validated_logistic_regression():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit, cross_validate

    attacked = target(0, shift=1.0)
    result = PaperAttack(seed=3).run(attacked)
    x = np.concatenate([attacked.forget.loss, attacked.test.loss])[:, None]
    y = np.repeat([1, 0], 200)
    cut = StratifiedShuffleSplit(10, test_size=0.1, random_state=3)
    expected = cross_validate(LogisticRegression(), x, y, cv=cut, scoring=("accuracy", "roc_auc", "f1"))
    assert result.accuracy == pytest.approx(expected["test_accuracy"].mean(), abs=0.01)
    assert result.auc.value == pytest.approx(expected["test_roc_auc"].mean(), abs=0.01)
    assert result.f1 == pytest.approx(expected["test_f1"].mean(), abs=0.01)
    assert isinstance(PaperAttack(), Attack)


def test_paper_attack_balances_the_sides_by_seed():
    attacked = target(1, rows=(60, 300, 10))
    result = PaperAttack(seed=0).run(attacked)
    assert (result.members, result.nonmembers) == (60, 60)
    assert set(result.nonmember_scores) <= set(-attacked.test.loss)
    again, other = PaperAttack(seed=0).run(attacked), PaperAttack(seed=1).run(attacked)
    assert np.array_equal(result.nonmember_scores, again.nonmember_scores)
    assert result.auc == again.auc
    assert not np.array_equal(result.nonmember_scores, other.nonmember_scores)


def test_paper_attacks_interval_is_widened_by_root_two():
    attacked = target(2, shift=0.5)
    cross_fitted, fixed = PaperAttack().run(attacked), LossThreshold().run(attacked)
    ratio = (cross_fitted.auc.high - cross_fitted.auc.low) / (fixed.auc.high - fixed.auc.low)
    assert ratio == pytest.approx(np.sqrt(2), rel=0.02)
    assert cross_fitted.auc.method == "DeLong, cross-fitted"
    retrain = PaperAttack().run(target(3))
    difference = cross_fitted.difference_to(retrain)
    assert difference.value == pytest.approx(cross_fitted.auc.value - retrain.auc.value)
    assert difference.method == "paired DeLong, cross-fitted"


def test_paper_attack_succeeds_on_over_unlearning_too():
    """Its direction is learned; the fixed-direction loss shows the sign."""
    attacked = target(4, shift=-2.0)
    assert PaperAttack().run(attacked).auc.value > 0.7
    assert LossThreshold().run(attacked).auc.value < 0.3


def test_svm_sees_a_mark_that_the_loss_does_not():
    attacked = target(5, rows=(400, 400, 400), side_channel=0.6)
    assert LossThreshold().run(attacked).auc.value < 0.6
    svm = LinearSvmAttack().run(attacked)
    assert svm.auc.low > 0.65
    assert svm.accuracy > 0.6
    assert 0.5 < svm.f1 < 1
    assert isinstance(LinearSvmAttack(), Attack)


def test_svm_is_trained_on_one_half_and_validation_only():
    attacked = target(6, shift=0.5)
    svm = LinearSvmAttack(seed=1)
    result = svm.run(attacked)
    assert (result.members, result.nonmembers) == (100, 200)
    rng = np.random.default_rng(9)
    other_test = SplitOutputs(attacked.forget, outputs(rng, 50, shift=9.0), attacked.validation)
    assert np.array_equal(svm.run(other_test).member_scores, result.member_scores)
    other_validation = SplitOutputs(attacked.forget, attacked.test, outputs(rng, 50, shift=9.0))
    assert not np.array_equal(svm.run(other_validation).member_scores, result.member_scores)
    assert not np.array_equal(LinearSvmAttack(seed=2).run(attacked).member_scores, result.member_scores)


def test_svm_minimises_the_stated_problem():
    """Mean squared hinge, sides weighted alike, plus l2/2 |w|^2 with a regularised intercept: gradient 0."""
    attacked, l2 = target(7, rows=(120, 50, 200), shift=0.5), 0.05
    order = np.random.default_rng(0).permutation(120)
    members = attacked.forget.scores[np.sort(order[:60])]
    margin = fit_margin(members, attacked.validation.scores, l2)
    x = np.concatenate([members, attacked.validation.scores])
    z = np.column_stack([(x - x.mean(0)) / x.std(0), np.ones(260)])
    w = np.linalg.lstsq(z, margin(x), rcond=None)[0]
    y = np.repeat([1.0, -1.0], [60, 200])
    weight = np.repeat([260 / 120, 260 / 400], [60, 200])
    gradient = -2 * z.T @ (weight * y * np.maximum(0, 1 - y * margin(x))) / 260 + l2 * w
    assert np.abs(gradient).max() < 1e-3


def test_svm_interval_covers_chance_without_signal():
    covered = [
        LinearSvmAttack(fprs=(), seed=seed).run(target(100 + seed, rows=(120, 120, 120))).auc.contains(0.5)
        for seed in range(150)
    ]
    assert np.mean(covered) > 0.9


def test_constant_columns_do_not_count():
    attacked = target(8, shift=0.5)
    with_constant = SplitOutputs(
        *(
            Outputs(np.column_stack([part.scores, np.full(200, 7.0)]))
            for part in (attacked.forget, attacked.test, attacked.validation)
        )
    )
    plain, constant = LinearSvmAttack().run(attacked), LinearSvmAttack().run(with_constant)
    np.testing.assert_allclose(constant.member_scores, plain.member_scores, atol=1e-6)


def test_auc_of_the_svm_is_that_of_its_scores():
    result = LinearSvmAttack().run(target(9, shift=1.0))
    assert result.auc.value == auc(result.member_scores, result.nonmember_scores)
    assert not result.cross_fitted


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearSvmAttack(l2=0.0), "l2 must be > 0, got 0.0; a positive l2"),
        (lambda: LinearSvmAttack().run(target(0, rows=(3, 9, 9))), "at least 4, got 3"),
        (lambda: LinearSvmAttack().run((np.zeros(9), np.zeros(9))), "needs the validation rows"),
        (lambda: PaperAttack().run(target(0, rows=(9, 50, 9))), "at least 10 rows a side, got 9 members and 50"),
    ],
)
def test_refusals_name_the_value_and_the_fix(call, message):
    with pytest.raises(DataError, match=message):
        call()
