"""The payoff of a neural follower: total derivative by finite differences of the retrained attacks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from amu_fast.audit import Auditor, HingePayoff, LogisticPayoff, MemoryBank
from amu_fast.audit.neural import standardised
from amu_fast.errors import DataError, SolveError
from amu_fast.followers import NeuralFollower
from amu_fast.status import Status

FOLLOWER = NeuralFollower(hidden=(4,), l2=3e-2, curvature="hessian", rtol=1e-12)
AUDITOR = Auditor(follower=FOLLOWER, payoff_kind=LogisticPayoff(), folds=2, hold_nonmembers=False)


def sides(n=24, m=24, d=2, shift=0.8, seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    members = torch.randn(n, d, generator=rng, dtype=torch.float64) + shift
    others = torch.randn(m, d, generator=rng, dtype=torch.float64)
    return members.to(dtype).requires_grad_(), others.to(dtype).requires_grad_()


def slope_and_difference(auditor, members, others, **options):
    """<gradient, direction> and a central difference of the payoff along it."""
    value = auditor.payoff(members, others, **options).value
    gradients = torch.autograd.grad(value, (members, others))
    directions = [torch.randn_like(g) for g in gradients]
    shifted = [
        auditor.payoff(
            *(x.detach() + s * 1e-5 * u for x, u in zip((members, others), directions, strict=True)), **options
        )
        for s in (1, -1)
    ]
    slope = sum(float((g * u).sum()) for g, u in zip(gradients, directions, strict=True))
    return slope, float(shifted[0].value.detach() - shifted[1].value.detach()) / 2e-5


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("kind", [LogisticPayoff(), HingePayoff()])
def test_the_gradient_is_that_of_the_retrained_attack(standardize, kind):
    auditor = replace(AUDITOR, standardize=standardize, payoff_kind=kind)
    slope, difference = slope_and_difference(auditor, *sides())
    assert slope == pytest.approx(difference, rel=1e-5)


def test_with_groups_bank_and_unequal_sides():
    members, others = sides(n=30, m=26)
    groups = (torch.arange(30) % 2, torch.arange(26) % 2)
    bank = MemoryBank(capacity=20)
    bank.add(*(s.detach() for s in sides(n=20, m=20, seed=5)), groups=(torch.arange(20) % 2, torch.arange(20) % 2))
    auditor = replace(AUDITOR, groups="class", min_rows_per_side=5)
    slope, difference = slope_and_difference(auditor, members, others, groups=groups, bank=bank)
    assert slope == pytest.approx(difference, rel=1e-5)
    payoff = auditor.payoff(members, others, groups=groups, bank=bank)
    assert payoff.per_problem.shape == payoff.status.shape == payoff.accuracy.shape == (2, 3)
    assert payoff.status[:, :2].eq(Status.CONVERGED).all()
    assert payoff.status[:, 2].eq(Status.SKIPPED).all()
    assert payoff.params.shape == (2, 3, FOLLOWER.size(2))


def test_gauss_newton_is_near_and_not_equal():
    """Known: what it leaves out is as large as the attack's errors."""
    members, others = sides(n=40, m=40)
    exact, near = (
        torch.autograd.grad(
            replace(AUDITOR, follower=replace(FOLLOWER, curvature=c)).payoff(members, others).value, members
        )[0]
        for c in ("hessian", "gauss_newton")
    )
    error = float((exact - near).norm() / exact.norm())
    assert 1e-4 < error < 0.6


def test_every_problem_under_any_cotangent():
    members, others = sides()
    payoff = AUDITOR.payoff(members, others)
    weights = torch.tensor([[2.0], [-1.0]], dtype=torch.float64)
    (combined,) = torch.autograd.grad((weights * payoff.per_problem).sum(), members, retain_graph=True)
    one, two = (torch.autograd.grad(payoff.per_problem[k, 0], members, retain_graph=True)[0] for k in (0, 1))
    torch.testing.assert_close(combined, 2 * one - two)


def test_parts_add_up_and_value_has_none():
    members, others = sides()
    full, direct, implicit = (
        torch.autograd.grad(AUDITOR.payoff(members, others, parts=p).value, members)[0]
        for p in ("full", "direct", "implicit")
    )
    torch.testing.assert_close(direct + implicit, full)
    assert float(implicit.norm()) > 0.1 * float(full.norm())
    value = AUDITOR.payoff(members, others, parts="value")
    assert torch.equal(value.per_problem, AUDITOR.payoff(members, others).per_problem)
    assert value.residual_norms.isnan().all()


def test_residuals_are_reported_and_bounds_are_not():
    payoff = AUDITOR.payoff(*sides())
    assert bool((payoff.gradient_norms < 1e-10).all())
    assert bool((payoff.residual_norms < 1e-12).all())
    assert payoff.bounds.gradient_bound.isnan().all()
    assert payoff.bounds.uncertain_rows.eq(-1).all()
    assert bool((payoff.accuracy >= 0.5).all())


def test_held_nonmembers_and_half_precision_scores():
    members, others = sides(dtype=torch.float32)
    replace(AUDITOR, hold_nonmembers=True).payoff(members, others).value.backward()
    assert others.grad is None
    assert members.grad.dtype == torch.float32
    assert float(members.grad.abs().sum()) > 0


def test_permuted_labels_pay_what_chance_pays():
    members, others = sides(n=60, m=60, shift=2.0)
    auditor = replace(AUDITOR, follower=NeuralFollower(hidden=(4,), l2=0.1))
    assert auditor.payoff(members, others, permute=True).value < auditor.payoff(members, others).value - 0.1


def test_failures_stay_with_their_problem():
    members, others = sides(n=40, m=40)
    groups = torch.arange(40) % 2
    members.data[0, 0] = torch.nan
    payoff = replace(AUDITOR, groups="class", min_rows_per_side=5).payoff(members, others, groups=(groups, groups))
    assert payoff.status[:, 0].eq(Status.NONFINITE).all()
    assert payoff.status[:, 1].eq(Status.CONVERGED).all()
    assert payoff.per_problem[:, 0].isnan().all()
    (gradient,) = torch.autograd.grad(payoff.per_problem[:, 1].sum(), members)
    assert gradient[1::2].isfinite().all()
    few = AUDITOR.payoff(*sides(n=1, m=30))
    assert few.status.eq(Status.SKIPPED).all()
    assert few.value == 0
    with pytest.raises(DataError, match="SKIPPED"):
        replace(AUDITOR, on_degenerate="raise").payoff(*sides(n=1, m=30))


def test_a_second_differentiation_raises():
    members, others = sides()
    (gradient,) = torch.autograd.grad(AUDITOR.payoff(members, others).value, members, create_graph=True)
    with pytest.raises(SolveError, match="differentiable once"):
        gradient.sum().backward()


def test_a_constant_column_is_zero_and_has_no_gradient():
    x = torch.randn(10, 2, dtype=torch.float64)
    x[:, 1] = 3.0
    x.requires_grad_()
    train, held = standardised(x[:6], x[6:])
    assert train[:, 1].abs().sum() == held[:, 1].abs().sum() == 0
    (train.square().sum() + held.sum()).backward()
    assert x.grad.isfinite().all()
    assert x.grad[:, 1].abs().sum() == 0
    reference = x.detach()[:6, 0]
    torch.testing.assert_close(held[:, 0], (x.detach()[6:, 0] - reference.mean()) / reference.std(correction=0))
