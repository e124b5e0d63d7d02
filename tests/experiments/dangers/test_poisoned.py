from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom, hypergeom

from amu_fast.audit.delong import auc_interval
from amu_fast.audit.metrics import auc
from amu_fast.errors import DataError
from amu_fast.experiments.dangers import (
    CompositionAudit,
    MembershipAudit,
    UtilityAudit,
    member_share,
    missing_rows,
    request_of,
)
from amu_fast.experiments.dangers.permutations import same_mix
from amu_fast.experiments.dangers.poisoned import KINDS, row_p_values

TRAIN = (torch.arange(200.0).reshape(100, 2), torch.arange(100) % 4)
OUTSIDE = (torch.arange(1000.0, 1100.0).reshape(50, 2), torch.arange(50) % 4)


def test_requests_are_what_they_say():
    honest, unseen, wrong, single = (request_of(kind, TRAIN, OUTSIDE, 20, 4, seed=1) for kind in KINDS)
    assert missing_rows(honest, TRAIN) == ()
    assert missing_rows(single, TRAIN) == ()
    assert missing_rows(unseen, TRAIN) == missing_rows(wrong, TRAIN) == tuple(range(20))
    assert missing_rows((wrong[0], TRAIN[1][(wrong[0][:, 0] / 2).long()]), TRAIN) == ()
    assert len(single[1].unique()) == 1
    with pytest.raises(DataError, match="one_class can name 1 to 25 rows, got 26"):
        request_of("one_class", TRAIN, OUTSIDE, 26, 4)
    with pytest.raises(DataError, match="kind must be one of"):
        request_of("evil", TRAIN, OUTSIDE, 5, 4)


def test_missing_rows_names_them():
    inputs, labels = TRAIN[0][:5].clone(), TRAIN[1][:5].clone()
    inputs[1, 0] += 1e-4
    labels[3] = (labels[3] + 1) % 4
    assert missing_rows((inputs, labels), TRAIN) == (1, 3)


def test_member_share_is_unbiased_and_its_interval_covers():
    """Mixtures of known share: 200 draws, mean within 3 standard errors, coverage compatible with 95 %."""
    rng = np.random.default_rng(0)
    truth, hits, values = 0.6, 0, []
    for _ in range(200):
        members, retain, validation = rng.normal(size=90) + 1.0, rng.normal(size=200) + 1.0, rng.normal(size=200)
        request = np.concatenate([members, rng.normal(size=60)])
        share, control = member_share(request, retain, validation)
        hits += share.contains(truth)
        values.append(share.value)
        assert control.value == auc(retain, validation)
    assert np.mean(values) == pytest.approx(truth, abs=3 * np.std(values) / np.sqrt(200))
    # A request with a fixed number of members varies less than a mixture, so coverage lies above .95.
    assert binom.cdf(hits, 200, 0.95) > 0.01


def test_the_control_is_delongs_interval():
    rng = np.random.default_rng(1)
    retain, validation = rng.normal(size=80) + 0.5, rng.normal(size=70)
    _, control = member_share(retain[:40], retain, validation)
    expected = auc_interval(retain, validation)
    assert (control.low, control.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_row_p_values():
    retain = np.arange(1.0, 100.0)
    np.testing.assert_allclose(row_p_values(np.array([0.0, 50.0, 100.0]), retain), [0.01, 0.51, 1.0])


def test_same_mix_keeps_the_proportions():
    wanted = np.repeat([0, 2], [10, 30])
    labels = np.repeat([0, 1, 2], [50, 50, 60])
    counts = np.bincount(labels[same_mix(wanted, labels)], minlength=3)
    assert counts.tolist() == [20, 0, 60]
    assert len(same_mix(wanted, np.zeros(9, np.int64))) == 0


class Scores(torch.nn.Module):
    """Logits (s, 0) for class 0 from the only feature, so φ is that feature for rows of class 0."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        score = self.scale * inputs
        return torch.cat([score, torch.zeros_like(score)], 1)


def rows(n: int, mean: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, generator=generator) + mean, torch.zeros(n, dtype=torch.int64)


@pytest.mark.parametrize(("mean", "codes"), [(1.5, ()), (0.0, ("NOT_MEMBERS",)), (-1.5, ("NOT_MEMBERS",))])
def test_members_non_members_and_mislabelled_rows(mean, codes):
    model, reference = Scores(1.0), Scores(0.0)
    report = MembershipAudit()(model, [reference], rows(150, mean, 1), rows(200, 1.5, 2), rows(200, 0.0, 3))
    assert report.codes == codes


def test_an_attack_that_sees_nothing_says_so():
    model, reference = Scores(1.0), Scores(0.0)
    blind = MembershipAudit()(model, [reference], rows(150, 0.0, 1), rows(200, 0.0, 2), rows(200, 0.0, 3))
    assert blind.codes == ("MEMBERSHIP_NOT_EVALUABLE",)
    other = (rows(50, 0.0, 4)[0], torch.ones(50, dtype=torch.int64))
    unmatched = MembershipAudit()(model, [reference], rows(150, 0.0, 1), other, other)
    assert unmatched.codes == ("MEMBERSHIP_NOT_EVALUABLE",)
    with pytest.raises(DataError, match="at least 1 reference"):
        MembershipAudit()(model, [], rows(150, 0.0, 1), rows(200, 0.0, 2), rows(200, 0.0, 3))


def test_composition():
    train = np.arange(400) % 4
    quiet = CompositionAudit()(np.arange(100) % 4, train)
    assert quiet.codes == ()
    loud = CompositionAudit()(np.repeat([0, 1], [10, 40]), train)
    assert loud.codes == ("ONE_CLASS",)
    assert loud.figures["class"] == 1.0
    assert loud.figures["share_of_class"] == 0.4
    assert loud.figures["p"] == pytest.approx(hypergeom.sf(39, 400, 100, 50))
    # Three rows of a class of four: a large share, yet no surprise.
    assert CompositionAudit()(np.array([5, 1]), np.array([5, 5, 1, 1, 1, 0])).codes == ()


def test_utility_names_the_class_that_fell(answers):
    labels = torch.arange(300) % 3
    inputs = torch.zeros(300, 1, 1, 4)
    inputs[:, 0, 0, 0] = labels.float()
    inputs[labels == 1, 0, 0, 3] = 9.0
    report = UtilityAudit()(answers(2), answers(None), (inputs, labels))
    assert report.codes == ("UTILITY_COLLAPSE", "UTILITY_COLLAPSE")
    assert report.intervals["class 1"].value == -1.0
    assert report.intervals["class 0"].value == 0.0
    assert report.intervals["class 1"].level == pytest.approx(1 - 0.05 / 3)
    assert report.figures == {"accuracy": pytest.approx(2 / 3), "reference_accuracy": 1.0}
    assert UtilityAudit()(answers(None), answers(None), (inputs, labels)).codes == ()
