"""An ensemble's payoff is its auditors' payoffs combined, in value and in gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from amu_fast.audit import Auditor, LogisticPayoff, MemoryBank, ModelOutputs, confidence, log_likelihood, margin
from amu_fast.audit.ensemble import EnsembleAuditor
from amu_fast.errors import DataError
from amu_fast.followers import Logistic, NeuralFollower, SquaredHinge
from amu_fast.unlearn.objectives import GameObjective, UnlearningBatch

A = Auditor(follower=SquaredHinge(l2=0.1), scores=log_likelihood, seed=3)
B = Auditor(follower=Logistic(l2=0.05), scores=margin, seed=3)
C = Auditor(follower=NeuralFollower(hidden=(4,), l2=0.05, curvature="hessian"), scores=log_likelihood, seed=3)
EACH = pytest.mark.parametrize("combine", ["sum", "strongest", "softmax"])


def outputs(n=40, classes=4, seed=0, sharp=2.0):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=rng)
    logits = torch.randn(n, classes, generator=rng, dtype=torch.float64)
    logits[torch.arange(n), labels] += sharp
    return ModelOutputs(logits, labels)


def scored(ensemble):
    members, others = ensemble.scores(outputs()), ensemble.scores(outputs(seed=1, sharp=0.5))
    return members.detach().requires_grad_(), others.detach().requires_grad_()


def combined(combine, values, p, temperature):
    if combine == "sum":
        return (p * values).sum()
    if combine == "strongest":
        return values.max()
    return temperature * (p * (values / temperature).exp()).sum().log()


@EACH
@pytest.mark.parametrize("weights", [None, (1.0, 3.0)])
def test_value_and_gradient_are_those_of_the_parts(combine, weights):
    if combine == "strongest" and weights is not None:
        return
    ensemble = EnsembleAuditor((A, B), combine=combine, weights=weights, temperature=0.2)
    members, others = scored(ensemble)
    payoff = ensemble.payoff(members, others, step=4)
    payoff.value.backward()
    first, second = (members.detach()[:, [i]].requires_grad_() for i in (0, 1))
    alone = [a.payoff(x, others[:, [i]], step=4) for i, (a, x) in enumerate(((A, first), (B, second)))]
    values = torch.stack([p.value for p in alone])
    p = torch.tensor(weights or (1.0, 1.0), dtype=torch.float64)
    expected = combined(combine, values, p / p.sum(), 0.2)
    expected.backward()
    torch.testing.assert_close(payoff.value, expected)
    torch.testing.assert_close(members.grad, torch.cat([first.grad, second.grad], 1))
    torch.testing.assert_close(payoff.values, values.detach())
    torch.testing.assert_close(payoff.accuracy, torch.stack([p.accuracy.mean() for p in alone]))
    # the combination in first order
    assert float(payoff.shares.sum()) == pytest.approx(1.0)
    for i, (own, share) in enumerate(zip(alone, payoff.shares, strict=True)):
        x = members.detach()[:, [i]].requires_grad_()
        (gradient,) = torch.autograd.grad((A, B)[i].payoff(x, others[:, [i]], step=4).value, x)
        torch.testing.assert_close(members.grad[:, [i]], share * gradient)
        assert own.status.shape == (3, 1)


@EACH
def test_gradient_by_finite_differences_with_a_neural_auditor(combine):
    auditors = tuple(replace(a, payoff_kind=LogisticPayoff(), folds=2, hold_nonmembers=False) for a in (A, B, C))
    ensemble = EnsembleAuditor(auditors, combine=combine, temperature=0.05)
    members, others = scored(ensemble)
    assert members.shape == (40, 2)
    (gradient,) = torch.autograd.grad(ensemble.payoff(members, others).value, members)
    u = torch.randn_like(gradient)
    ahead, behind = (ensemble.payoff(members.detach() + s * 1e-5 * u, others).value.detach() for s in (1, -1))
    assert float((gradient * u).sum()) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-5)


def test_softmax_lies_between_the_mean_and_the_strongest():
    members, others = scored(EnsembleAuditor((A, B)))
    shared = {"columns": (1, 1)}
    mean, top = (
        EnsembleAuditor((A, B), combine=c, **shared).payoff(members, others).value for c in ("sum", "strongest")
    )
    soft = [EnsembleAuditor((A, B), temperature=t, **shared).payoff(members, others).value for t in (1e-3, 0.1, 1e3)]
    assert mean < soft[1] < top
    torch.testing.assert_close(soft[0], top, rtol=0, atol=1e-3)
    torch.testing.assert_close(soft[2], mean, rtol=0, atol=1e-3)


def test_a_bank_serves_every_auditor_its_own_columns():
    ensemble = EnsembleAuditor((A, B), combine="sum")
    members, others = scored(ensemble)
    bank = MemoryBank(capacity=30)
    bank.add(members.detach() + 0.1, others.detach())
    payoff = ensemble.payoff(members, others, bank=bank)
    for i, auditor in enumerate((A, B)):
        own = MemoryBank(capacity=30)
        own.add(members.detach()[:, [i]] + 0.1, others.detach()[:, [i]])
        assert torch.equal(payoff.values[i], auditor.payoff(members[:, [i]], others[:, [i]], bank=own).value)


def test_groups_go_to_those_that_ask_for_them():
    by_class = replace(B, groups="class", min_rows_per_side=5)
    ensemble = EnsembleAuditor((A, by_class))
    members, others = scored(ensemble)
    groups = torch.arange(40) % 2
    payoff = ensemble.payoff(members, others, groups=(groups, groups))
    assert ensemble.groups == "class"
    assert [p.per_problem.shape for p in payoff.payoffs] == [(3, 1), (3, 3)]
    assert payoff.status.shape == (12,)
    assert EnsembleAuditor((A,)).groups is None
    assert ensemble.hold_nonmembers
    assert not EnsembleAuditor((A, replace(B, hold_nonmembers=False))).hold_nonmembers


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        return self.layer(x)


def test_it_stands_where_an_auditor_does():
    """In the game, with its cap and bank: one backward pass through the model."""
    rng = torch.Generator().manual_seed(0)
    part = lambda: {"x": torch.randn(40, 6, generator=rng), "labels": torch.randint(0, 4, (40,), generator=rng)}  # noqa: E731
    batch = UnlearningBatch(part(), part(), part())
    game = GameObjective(EnsembleAuditor((A, B, C)), weight=1.0, every=1, bank=MemoryBank(capacity=50))
    model = Classifier()
    terms = game(model, batch)
    terms.loss.backward()
    assert model.layer.weight.grad.isfinite().all()
    assert {"payoff", "permuted_payoff", "auditor_accuracy", "adjoint_residual"} <= set(terms.values)
    assert float(terms.values["adjoint_residual"]) < 1e-10
    exact, _ = game.solve([game.score(model, batch, gradient=False)])
    assert bool(exact.loss.isfinite())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EnsembleAuditor(()), "at least one Auditor"),
        (lambda: EnsembleAuditor((A,), combine="mean"), "combine must be 'sum', 'strongest' or 'softmax', got 'mean'"),
        (lambda: EnsembleAuditor((A,), temperature=0.0), "temperature must be > 0 and finite, got 0.0"),
        (lambda: EnsembleAuditor((A, B), weights=(1.0,)), "weights must be 2 numbers >= 0"),
        (lambda: EnsembleAuditor((A, B), weights=(0.0, 0.0)), "with a positive sum"),
        (lambda: EnsembleAuditor((A, B), combine="strongest", weights=(1.0, 1.0)), "None for 'strongest'"),
        (lambda: EnsembleAuditor((A, replace(B, folds=2))), "agree in folds and payoff_kind"),
        (lambda: EnsembleAuditor((A, replace(B, payoff_kind=LogisticPayoff()))), "agree in folds and payoff_kind"),
        (lambda: EnsembleAuditor((A, B), columns=(1,)), "columns must be 2 numbers >= 1"),
        (lambda: EnsembleAuditor((A, B)).payoff(torch.zeros(4, 2), torch.zeros(4, 2)), "which made none yet"),
        (
            lambda: EnsembleAuditor((A, B), columns=(1, 2)).payoff(torch.zeros(4, 2), torch.zeros(4, 2)),
            "must have 3 columns",
        ),
    ],
)
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_a_map_that_occurs_twice_is_evaluated_once():
    calls = []

    def counted(o):
        calls.append(1)
        return confidence(o)

    ensemble = EnsembleAuditor((replace(A, scores=counted), replace(B, scores=counted)))
    assert ensemble.scores(outputs()).shape == (40, 1)
    assert len(calls) == 1
