from __future__ import annotations

import numpy as np
import pytest

from amu_fast.audit.attacks import Outputs, SplitOutputs
from amu_fast.audit.delong import auc_difference
from amu_fast.errors import DataError
from amu_fast.experiments.dangers import OverUnlearningAudit, cross_fitted_auc, over_matched_noise


def outputs(shift: float, seed: int = 0, rows: int = 400) -> SplitOutputs:
    """Scores of a model whose forget rows lie `shift` above its test rows."""
    rng = np.random.default_rng(seed)
    forget, test = rng.normal(size=rows) + shift, rng.normal(size=rows)
    return SplitOutputs(Outputs.from_scores(forget), Outputs.from_scores(test))


def test_the_planted_over_unlearner_is_flagged_with_the_paired_interval():
    unlearned, retrain = outputs(-0.5), outputs(0.0)
    report = OverUnlearningAudit()(unlearned, retrain)
    assert report.codes == ("OVER_UNLEARNED",)
    pairs = [(o.forget.scores[:, 0], o.test.scores[:, 0]) for o in (unlearned, retrain)]
    expected = auc_difference(pairs[0], pairs[1])
    found = report.intervals["auc_difference"]
    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.high < -0.05


def test_what_is_under_unlearned_or_as_low_as_retrain_is_not():
    assert OverUnlearningAudit()(outputs(0.5), outputs(0.0)).codes == ()
    # Retrain itself is far below .5 on these rows: low is what it should be (S6).
    assert OverUnlearningAudit()(outputs(-1.0, seed=1), outputs(-1.0, seed=2)).codes == ()


@pytest.mark.parametrize(("rows", "published"), [(500, 0.386), (128, 0.285)])
def test_over_matched_noise_fools_a_trained_attack_and_not_this_audit(rows, published):
    """S12: cross-fitted AUC .386 at 500 rows a side, .285 at 128; fresh rows show nothing."""
    trained = []
    for seed in range(12):
        unlearned, retrain = over_matched_noise(rows, seed=seed)
        report = OverUnlearningAudit()(unlearned, retrain)
        assert report.codes == ()
        trained.append(report.figures["trained_auc"])
    assert np.mean(trained) == pytest.approx(published, abs=0.03)
    assert max(trained) < 0.5


def test_honest_noise_has_cross_fitted_auc_one_half():
    rng = np.random.default_rng(0)
    values = [cross_fitted_auc(rng.normal(size=(200, 5)), rng.normal(size=(200, 5)), seed=s) for s in range(12)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.03)


def test_bad_options():
    with pytest.raises(DataError, match="margin must lie"):
        OverUnlearningAudit(margin=0.0)
    with pytest.raises(DataError, match="2 <= folds <= rows"):
        cross_fitted_auc(np.zeros((3, 1)), np.zeros((9, 1)))
