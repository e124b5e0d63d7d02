"""Loss and calibrated loss: values, pairing, and what calibration sees that the loss does not."""

from __future__ import annotations

import numpy as np
import pytest

from amu_fast.audit.attacks import CalibratedLoss, LossThreshold, Outputs, SplitOutputs
from amu_fast.audit.delong import auc_difference
from amu_fast.audit.metrics import auc, tpr_at_fpr
from amu_fast.errors import DataError
from amu_fast.protocols import Attack


def models(count, bump, rows=300, difficulty=3.0, seed=0):
    """Outputs of models on the same rows: phi = easiness of the row + the model's own noise + bump for members."""
    rng = np.random.default_rng(seed)
    easiness = rng.normal(2, difficulty, (2, rows))
    made = []
    for index in range(count):
        phi = easiness + rng.normal(0, 0.7, (2, rows))
        phi[0] += bump if index == 0 else 0.0
        made.append(SplitOutputs(*(Outputs.from_logits(np.stack([p, 0 * p], 1), np.zeros(rows, int)) for p in phi)))
    return made


def test_loss_attack_is_the_auc_of_minus_loss():
    original = models(1, 1.0)[0]
    result = LossThreshold(fprs=(0.05,), in_game=True).run(original)
    assert result.auc.value == auc(-original.forget.loss, -original.test.loss)
    assert result.tpr[0.05].value == tpr_at_fpr(-original.forget.loss, -original.test.loss, 0.05)
    assert result.in_game
    assert (result.accuracy, result.f1) == (None, None)
    assert isinstance(LossThreshold(), Attack)


def test_calibration_sees_what_the_loss_does_not():
    original, *references = models(3, bump=1.0)
    loss, calibrated = LossThreshold().run(original), CalibratedLoss(tuple(references)).run(original)
    assert loss.auc.contains(0.56)
    assert loss.auc.low < 0.55
    assert calibrated.auc.low > 0.7
    assert isinstance(CalibratedLoss(tuple(references)), Attack)


def test_calibrated_score_is_phi_minus_the_mean_of_the_references():
    original, first, second = models(3, bump=0.5, rows=20)
    result = CalibratedLoss((first, second)).run(original)
    expected = original.forget.phi - (first.forget.phi + second.forget.phi) / 2
    np.testing.assert_allclose(result.member_scores, expected)


def test_another_retrain_is_not_told_apart_from_retrain():
    """The negative control: both attacked with the same references, compared on the same rows (S6)."""
    covered = []
    for seed in range(40):
        first, second, *references = models(4, bump=0.0, rows=100, seed=seed)
        attack = CalibratedLoss(tuple(references), fprs=(0.05,))
        covered.append(attack.run(first).difference_to(attack.run(second)).contains(0.0))
    assert np.mean(covered) >= 0.85


def test_difference_to_retrain_is_paired_delong():
    original, retrain, reference = models(3, bump=1.0)
    attack = CalibratedLoss((reference,))
    a, b = attack.run(original), attack.run(retrain)
    expected = auc_difference((a.member_scores, a.nonmember_scores), (b.member_scores, b.nonmember_scores), level=0.9)
    assert a.difference_to(b, level=0.9) == expected
    assert expected.low > 0.15
    rate = a.tpr_difference_to(b, 0.05)
    assert rate.value == a.tpr[0.05].value - b.tpr[0.05].value
    assert rate.contains(rate.value)


def test_refusals():
    original, retrain, reference = models(3, bump=1.0, rows=20)
    with pytest.raises(DataError, match="at least 1 reference, got 0; train one without"):
        CalibratedLoss(())
    shorter = models(1, 0.0, rows=19)[0]
    with pytest.raises(DataError, match="reference 0 has 19 forget rows and the target 20"):
        CalibratedLoss((shorter,)).run(original)
    with pytest.raises(DataError, match="within one attack, got 'loss' and 'calibrated loss'"):
        LossThreshold().run(original).difference_to(CalibratedLoss((reference,)).run(retrain))
    with pytest.raises(DataError, match="same member rows, got 20 and 19"):
        LossThreshold().run(original).difference_to(LossThreshold().run(shorter))
