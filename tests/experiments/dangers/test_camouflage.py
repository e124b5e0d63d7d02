from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from amu_fast.audit.intervals import clopper_pearson
from amu_fast.errors import DataError
from amu_fast.experiments.dangers import CamouflageAudit, PatchTrigger, camouflage_audit
from amu_fast.experiments.dangers.permutations import MatchedSample, concentration, cross_fitted_auc, p_value

AUDIT = CamouflageAudit(alpha=0.05, permutations=199, window=2)


def test_concentration_is_the_formula():
    rng = np.random.default_rng(0)
    features, members = rng.normal(size=(12, 3)), np.zeros((2, 12))
    members[0, :6] = members[1, ::2] = 1.0
    found = concentration(features, members, floor=0.1)
    for row, inside in enumerate(members.astype(bool)):
        mean = features[inside].mean(0)
        expected = ((features[~inside] - mean) ** 2).mean(0) / (features[inside].var(0) + 0.1)
        np.testing.assert_allclose(found[row], expected, rtol=1e-12)


def test_cross_fitted_auc_is_ridge_regression_on_halves():
    rng = np.random.default_rng(1)
    features, members = rng.normal(size=(40, 5)), np.tile([1.0, 0.0, 0.0, 1.0], 10)
    features[members == 1] += 0.7
    half = np.arange(40) % 2
    found = cross_fitted_auc(features, members[None], half, l2=0.5)[0]
    centred = features - features.mean(0)
    scale = (centred**2).sum(1).mean()
    expected = 0.0
    for a in (0, 1):
        fit = Ridge(alpha=0.5 * scale, fit_intercept=False).fit(centred[half == a], 2 * members[half == a] - 1)
        expected += roc_auc_score(members[half != a], fit.predict(centred[half != a])) / 2
    assert found == pytest.approx(expected, abs=1e-12)


def test_permutations_stay_inside_class_and_half():
    sample = MatchedSample.of(np.repeat([0, 1], [8, 6]), np.repeat([0, 1, 2], [20, 4, 30]))
    assert sample.member.sum() == 8 + 4  # class 1 has four validation rows, class 2 no forget row
    memberships = sample.memberships(50)
    assert memberships.shape == (51, 24)
    np.testing.assert_array_equal(memberships[0], sample.member)
    for stratum in np.unique(sample.strata):
        inside = sample.strata == stratum
        np.testing.assert_array_equal(memberships[:, inside].sum(1), sample.member[inside].sum())
    assert (memberships[1:] != memberships[0]).any(1).all()
    with pytest.raises(DataError, match="only 2 forget rows have a validation row of their class"):
        MatchedSample.of(np.zeros(5, np.int64), np.zeros(2, np.int64))


def test_p_value_counts_the_truth():
    assert p_value(np.array([3.0, 1.0, 3.0, 4.0])) == 0.75
    assert p_value(np.array([9.0, 1.0, 3.0, 4.0])) == 0.25


def test_camouflage_is_found_and_its_pattern_recovered(digits):
    inputs, labels = digits
    trigger = PatchTrigger(float(inputs.max()), size=2)
    found = AUDIT((trigger(inputs[:40]), labels[:40]), (inputs[40:400], labels[40:400]))
    assert found.report.codes == ("SHARED_PATTERN", "FORGET_SET_STANDS_OUT")
    clean = inputs[400:410]
    assert found.pattern is not None
    stamped, expected = found.pattern(clean), trigger(clean)
    assert torch.equal(stamped[:, :, 6:, 6:], expected[:, :, 6:, 6:])
    assert int(found.pattern.mask.sum()) <= 8


def test_a_half_clean_forget_set_still_stands_out(digits):
    inputs, labels = digits
    mixed = torch.cat([PatchTrigger(float(inputs.max()), size=2)(inputs[:60]), inputs[60:120]])
    found = AUDIT((mixed, labels[:120]), (inputs[200:800], labels[200:800]))
    assert found.report.codes == ("FORGET_SET_STANDS_OUT",)
    assert found.pattern is None


def test_false_alarms_on_random_forget_sets_keep_to_alpha(digits):
    """100 random forget sets: the share of alarms is compatible with alpha = .05 or less."""
    inputs, labels = digits
    alarms = 0
    for seed in range(100):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        f, v = order[:30], order[30:230]
        audit = CamouflageAudit(alpha=0.05, permutations=99, window=2, ratio=1.001, auc=0.501)
        alarms += bool(audit((inputs[f], labels[f]), (inputs[v], labels[v]), seed=seed).report.warnings)
    assert clopper_pearson(alarms, 100).low <= 0.05


def test_another_mix_of_classes_is_no_finding(digits):
    """A forget set of three classes against validation of all: matched by class, so quiet."""
    inputs, labels = digits
    few = (labels[:300] < 3).nonzero().flatten()
    found = AUDIT((inputs[few], labels[few]), (inputs[600:], labels[600:]))
    assert found.report.codes == ()


def test_the_pattern_is_tried_on_the_model(digits, answers):
    inputs, labels = digits
    stamped = PatchTrigger(10.0, size=2)(inputs)
    first_pixel = torch.zeros_like(inputs[:, :, :1, :1])
    stamped, clean = stamped.clone(), inputs.clone()
    stamped[:, :, :1, :1] = clean[:, :, :1, :1] = first_pixel
    found = CamouflageAudit(alpha=0.05, permutations=199, window=2)(
        (stamped[:40], labels[:40]), (clean[40:400], labels[40:400]), model=answers(7, classes=10)
    )
    assert found.report.figures["pattern_target"] == 7.0
    assert found.report.figures["pattern_success"] == 1.0


def test_unusable_options_and_rows(digits):
    inputs, labels = digits
    with pytest.raises(DataError, match="at least 2/alpha - 1 permutations, got 99"):
        CamouflageAudit(permutations=99)
    with pytest.raises(DataError, match=r"forget rows are \(1, 8, 8\), validation rows \(8, 8\)"):
        camouflage_audit(None, (inputs[:40], labels[:40]), (inputs[40:400, 0], labels[40:400]))


def test_every_pair_of_halves_is_disjoint_and_covers():
    sample = MatchedSample.of(np.repeat([0, 1, 2], 10), np.repeat([0, 1, 2], 15), seed=3)
    halves = [set(sample.rows[sample.half == h].tolist()) for h in (0, 1)]
    assert all(not (a & b) for a, b in combinations(halves, 2))
    assert len(halves[0]) == len(halves[1]) == 30
    assert len(set(sample.rows.tolist())) == 60
