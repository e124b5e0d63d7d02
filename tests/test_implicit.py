"""`best_response`: the optimum as a differentiable function of the scores, against the dense oracle."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
import zoo

from amu_fast.errors import SolveError
from amu_fast.followers import HuberisedHinge, Logistic, SquaredHinge
from amu_fast.implicit import best_response
from amu_fast.linalg import Cholesky, ConjugateGradient

KINDS = {"logistic": Logistic, "squared_hinge": SquaredHinge, "huberised_hinge": HuberisedHinge}
LOSSES = pytest.mark.parametrize("loss", zoo.LOSSES)


def batch(seed, shape=(3,), n=16, d=4):
    rng = np.random.default_rng(seed)
    labels = np.broadcast_to(np.resize([1.0, -1.0], n), (*shape, n)).copy()
    scores = rng.standard_normal((*shape, n, d)) + 0.5 * labels[..., None]
    cotangent = torch.tensor(rng.standard_normal((*shape, d + 1)))
    return torch.tensor(scores, requires_grad=True), torch.tensor(labels), cotangent


def exact(loss, l2, scores, labels, cotangent):
    """Optimum and ∂⟨w*, v⟩/∂x of one problem by equations (6) and (7)."""
    follower = oracle.Follower(loss, l2)
    x = oracle.with_intercept(scores.astype(np.longdouble))
    y = labels.astype(np.longdouble)
    w = oracle.optimum(follower, x, y)
    u = oracle.solve(follower, x, y, w, cotangent.astype(np.longdouble))
    return w.astype(float), oracle.row_gradients(follower, x, y, w, u)[:, :-1].astype(float)


@LOSSES
@pytest.mark.parametrize(("n", "d"), [(16, 4), (10, 30), (40, 39)])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_optimum_and_gradient_equal_the_oracle(loss, n, d, l2):
    scores, labels, cotangent = batch(n + d, n=n, d=d)
    solution = best_response(KINDS[loss](l2=l2, rtol=1e-14), scores, labels)
    solution.raise_for_status()
    solution.value.backward(cotangent)
    for b in range(3):
        w, rows = exact(loss, l2, *(part[b].detach().numpy() for part in (scores, labels, cotangent)))
        assert np.linalg.norm(solution.value[b].detach().numpy() - w) <= 1e-9 * np.linalg.norm(w)
        assert np.linalg.norm(scores.grad[b].numpy() - rows) <= 1e-9 * np.linalg.norm(rows)


@LOSSES
def test_gradcheck(loss):
    scores, labels, _ = batch(1, shape=(2,), n=8, d=2)
    follower = KINDS[loss](l2=0.05, rtol=1e-14)
    assert torch.autograd.gradcheck(
        lambda s: best_response(follower, s, labels).value, scores, eps=1e-5, atol=1e-8, rtol=1e-6
    )


@LOSSES
@pytest.mark.parametrize("solver", [Cholesky(), ConjugateGradient(rtol=1e-13)], ids=["cholesky", "cg"])
def test_every_solver_gives_the_same_gradient(loss, solver):
    scores, labels, cotangent = batch(2, shape=(2, 3))
    best_response(KINDS[loss](rtol=1e-14), scores, labels, solver=solver).value.backward(cotangent)
    rows = exact(loss, 1e-2, *(part[1, 2].detach().numpy() for part in (scores, labels, cotangent)))[1]
    assert np.linalg.norm(scores.grad[1, 2].numpy() - rows) <= 1e-9 * np.linalg.norm(rows)


def test_one_problem_and_low_precision():
    scores, labels, cotangent = batch(3, shape=())
    low = scores.detach().float().requires_grad_()
    best_response(SquaredHinge(rtol=1e-14), low, labels.long()).value.backward(cotangent)
    rows = exact("squared_hinge", 1e-2, low.detach().double().numpy(), labels.numpy(), cotangent.numpy())[1]
    assert low.grad.dtype == torch.float32
    assert np.abs(low.grad.numpy() - rows).max() <= 2.0**-23 * np.abs(rows).max()


def test_zero_cotangent_gives_zero():
    scores, labels, cotangent = batch(4)
    best_response(SquaredHinge(), scores, labels).value.backward(0 * cotangent)
    assert not scores.grad.any()


def test_without_gradient_it_is_the_fit():
    scores, labels, _ = batch(5)
    solution = best_response(Logistic(), scores.detach(), labels)
    fitted = Logistic().fit(scores.detach(), labels)
    assert not solution.value.requires_grad
    assert torch.equal(solution.value, fitted.value)
    assert torch.equal(solution.status, fitted.status)
    assert torch.equal(solution.steps, fitted.steps)


def test_an_adjoint_that_does_not_converge_raises():
    scores, labels, cotangent = batch(6, n=40, d=20)
    solution = best_response(Logistic(l2=1e-4), scores, labels, solver=ConjugateGradient(rtol=1e-12, max_steps=2))
    with pytest.raises(SolveError):
        solution.value.backward(cotangent)


def test_double_backward_and_forward_mode_raise():
    scores, labels, cotangent = batch(7)
    value = best_response(SquaredHinge(), scores, labels).value
    (gradient,) = torch.autograd.grad(value, scores, cotangent, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.sum(), scores)
    plain = scores.detach()
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.func.jvp(lambda s: best_response(SquaredHinge(), s, labels).value, (plain,), (plain,))
