"""What each method does, not how well."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from digits import PARTS, gradients, loss_on, network, weights
from torch import nn
from torch.nn import functional

from amu_fast.errors import DataError
from amu_fast.splits import Splits
from amu_fast.unlearn.methods import FineTune, GradientAscent, NegGradPlus, Retrain, ScoreMomentMatching
from amu_fast.unlearn.methods.moments import moment_gap
from amu_fast.unlearn.methods.retrain import reinitialise
from amu_fast.unlearn.optimise import Sgd

PLAIN = Sgd(lr=0.01, momentum=0.0, weight_decay=0.0, schedule="constant")


def step_taken(before: nn.Module, after: nn.Module, lr: float) -> torch.Tensor:
    """The gradient of one plain SGD step."""
    return (weights(before) - weights(after)) / lr


def test_retraining_starts_afresh_and_never_reads_a_forget_row(trained, digits):
    inputs, labels = digits
    poisoned = inputs.clone()
    poisoned[list(PARTS["forget"])] = float("nan")
    poisoned[list(PARTS["validation"])] = float("nan")
    splits = Splits.from_indices((poisoned, labels), **PARTS)
    recipe = Retrain(epochs=15, batch_size=32, optimiser=Sgd(lr=0.05))
    model = recipe.unlearn(trained, splits).model
    assert loss_on(model, splits, "retain") < 0.5
    other = recipe.unlearn(network(), splits).model
    assert torch.equal(weights(model), weights(other))


def test_retrain_learns_less_of_the_forget_rows_than_fine_tuning_keeps(trained, splits):
    retrained = Retrain(epochs=15, batch_size=32, optimiser=Sgd(lr=0.05)).unlearn(trained, splits).model
    tuned = FineTune(epochs=1, batch_size=32, optimiser=PLAIN).unlearn(trained, splits).model
    assert loss_on(retrained, splits, "forget") > loss_on(tuned, splits, "forget") + 0.3


class Scale(nn.Module):
    """Parameters without reset_parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def test_what_cannot_be_reset_is_named_unless_init_is_given(splits):
    model = nn.Sequential(nn.Flatten(), Scale(), nn.Linear(64, 10))
    with pytest.raises(DataError, match=r"1 submodules.*1 \(Scale\).*Retrain\(init="):
        Retrain(epochs=0.1).unlearn(model, splits)

    def init(fresh: nn.Module) -> None:
        for parameter in fresh.parameters():
            nn.init.normal_(parameter)

    first, second = (Retrain(epochs=0.1, init=init).unlearn(model, splits, seed=1).model for _ in range(2))
    assert torch.equal(weights(first), weights(second))
    assert model[1].factor.item() == 3.0


def test_frozen_submodules_keep_their_weights_and_statistics_are_reset():
    model = network()
    model[1].running_mean.fill_(5.0)
    model[4].requires_grad_(False)
    frozen, trained = model[4].weight.clone(), model[9].weight.clone()
    reinitialise(model)
    assert torch.equal(model[4].weight, frozen)
    assert not torch.equal(model[9].weight, trained)
    assert model[1].running_mean.abs().sum() == 0


def test_fine_tuning_follows_the_retain_gradient(trained, splits):
    spec = FineTune(epochs=1.0, batch_size=300, optimiser=PLAIN)
    model = spec.unlearn(trained, splits).model
    reference = deepcopy(trained).train()
    inputs, labels = splits.rows("retain").part()
    functional.cross_entropy(reference(inputs), labels).backward()
    torch.testing.assert_close(step_taken(trained, model, 0.01), gradients(reference), rtol=2e-3, atol=2e-4)


def test_gradient_ascent_raises_the_forget_loss(trained, splits):
    result = GradientAscent(epochs=2.0, batch_size=50, optimiser=Sgd(lr=0.03)).unlearn(trained, splits)
    assert loss_on(result.model, splits, "forget") > 2 * loss_on(trained, splits, "forget")
    history = result.report.history["forget_loss"]
    assert history[-1] > history[0]


def test_neg_grad_plus_steps_along_the_weighted_difference(trained, splits):
    spec = NegGradPlus(epochs=0.5, retain_share=0.7, batch_size=300, optimiser=PLAIN)
    model = spec.unlearn(trained, splits).model
    parts = []
    for part in ("retain", "forget"):
        reference = deepcopy(trained).train()
        inputs, labels = splits.rows(part).part()
        functional.cross_entropy(reference(inputs), labels).backward()
        parts.append(gradients(reference))
    expected = 0.7 * parts[0] - 0.3 * parts[1]
    torch.testing.assert_close(step_taken(trained, model, 0.01), expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("covariance", [False, True])
def test_moment_gap_is_the_formula_with_constant_moments(covariance):
    member = torch.randn(40, 3, dtype=torch.float64, requires_grad=True)
    other = torch.randn(30, 3, dtype=torch.float64) * 2 + 1
    pooled = torch.cat([member, other]).detach()
    mean, deviation = pooled.mean(0), pooled.std(0, correction=0)
    z, t = (member - mean) / deviation, (other - mean) / deviation
    expected = ((z.mean(0) - t.mean(0)) ** 2).sum()
    if covariance:
        expected = expected + ((torch.cov(z.T, correction=0) - torch.cov(t.T, correction=0)) ** 2).sum()
    gap = moment_gap(member, other, covariance=covariance)
    torch.testing.assert_close(gap, expected)
    mine, theirs = (torch.autograd.grad(value, member, retain_graph=True)[0] for value in (gap, expected))
    torch.testing.assert_close(mine, theirs)


def test_a_constant_score_column_adds_nothing():
    member = torch.cat([torch.randn(8, 1), torch.full((8, 1), 2.0)], 1).requires_grad_()
    other = torch.cat([torch.randn(8, 1), torch.full((8, 1), 2.0)], 1)
    gap = moment_gap(member, other, covariance=True)
    gap.backward()
    assert gap.detach() == moment_gap(member[:, :1], other[:, :1], covariance=True).detach()
    assert member.grad[:, 1].abs().sum() == 0


def test_moment_matching_closes_the_gap_at_the_same_charge(trained, splits):
    matched, control = (
        ScoreMomentMatching(epochs=8, batch_size=32, weight=weight, every=1, optimiser=Sgd(lr=0.05)).unlearn(
            trained, splits
        )
        for weight in (1.0, 0.0)
    )
    near, far = (abs(loss_on(r.model, splits, "forget") - loss_on(r.model, splits, "test")) for r in (matched, control))
    assert near < 0.5 * far
    assert matched.report.cost.gradient_samples == control.report.cost.gradient_samples
    assert None not in control.report.history["moment_gap"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NegGradPlus(retain_share=1.5), "retain_share must lie in"),
        (lambda: ScoreMomentMatching(weight=-1.0), "weight must be >= 0 and finite, got -1.0"),
        (lambda: ScoreMomentMatching(every=0), "every must be >= 1, got 0"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(DataError, match=message):
        make()
