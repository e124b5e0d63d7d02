"""The neural follower: trained to a stationary point, differentiable through it, deterministic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from amu_fast.errors import DataError, SolveError
from amu_fast.followers import NeuralFollower
from amu_fast.followers import minimise as training
from amu_fast.implicit import best_response
from amu_fast.linalg import ConjugateGradient, GlmHessian, to_dense
from amu_fast.status import Status

SMALL = NeuralFollower(hidden=(5,), l2=2e-2, curvature="hessian", rtol=1e-12)
EACH = pytest.mark.parametrize("activation", ["tanh", "softplus"])


def rows(n=24, d=2, shift=0.8, seed=0):
    rng = torch.Generator().manual_seed(seed)
    y = torch.ones(n, dtype=torch.float64)
    y[n // 2 :] = -1
    return torch.randn(n, d, generator=rng, dtype=torch.float64) + shift * (y > 0)[:, None], y


def gradient_of(follower, w, x, y):
    w = w.detach().clone().requires_grad_()
    return torch.autograd.grad(follower.objective(w, x, y), w)[0]


@EACH
@pytest.mark.parametrize("hidden", [(5,), (4, 3)])
@pytest.mark.parametrize("l2", [1e-1, 1e-2, 1e-3])
def test_training_ends_at_a_stationary_point(activation, hidden, l2):
    x, y = rows()
    follower = NeuralFollower(hidden=hidden, l2=l2, activation=activation)
    fit = follower.fit(x, y).raise_for_status()
    gradient = gradient_of(follower, fit.value, x, y)
    assert float(gradient.norm()) == pytest.approx(float(fit.residual_norms), abs=1e-12)
    first = gradient_of(follower, follower._start(2), x, y).norm()
    assert float(gradient.norm()) <= 1e-8 * float(first)
    assert int(fit.steps) <= 150
    eigenvalues = torch.linalg.eigvalsh(follower.exact_hessian(fit.value, x, y))
    assert float(eigenvalues.min()) > 0


def test_many_parameters_are_trained_without_a_dense_matrix(monkeypatch):
    monkeypatch.setattr(training, "_DENSE", 0)
    x, y = rows(n=40)
    follower = NeuralFollower(hidden=(8,), l2=1e-1)
    fit = follower.fit(x, y).raise_for_status()
    assert float(gradient_of(follower, fit.value, x, y).norm()) <= 1e-7


def test_a_network_separates_what_no_line_can():
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(60, 2, generator=rng, dtype=torch.float64)
    y = torch.where(x[:, 0] * x[:, 1] > 0, 1.0, -1.0).double()
    follower = NeuralFollower(l2=1e-3)
    fit = follower.fit(x, y).raise_for_status()
    assert float((follower.score(fit.value, x).sign() == y).double().mean()) > 0.95


@EACH
def test_jacobian_and_curvature_are_those_of_autograd(activation):
    x, y = rows(n=7, d=3)
    follower = NeuralFollower(hidden=(4, 3), activation=activation, curvature="gauss_newton", l2=0.3)
    w = follower._start(3) + 0.1
    _, jacobian, slopes, c = follower.linearised(w, x, y)
    expected = torch.autograd.functional.jacobian(lambda w: follower.score(w, x), w)
    torch.testing.assert_close(jacobian, expected)
    torch.testing.assert_close(jacobian.mT @ slopes + 0.3 * w, gradient_of(follower, w, x, y))
    operator = follower.hessian(w, x, y)
    assert isinstance(operator, GlmHessian)
    dense = expected.mT @ (c[:, None] * expected) + 0.3 * torch.eye(len(w), dtype=w.dtype)
    torch.testing.assert_close(to_dense(operator), dense)
    exact = torch.autograd.functional.hessian(lambda w: follower.objective(w, x, y), w)
    torch.testing.assert_close(to_dense(replace(follower, curvature="hessian").hessian(w, x, y)), exact)
    damped = replace(follower, damping=0.5).hessian(w, x, y)
    torch.testing.assert_close(to_dense(damped), dense + 0.5 * torch.eye(len(w), dtype=w.dtype))


@EACH
@pytest.mark.parametrize("solver", [None, ConjugateGradient(rtol=1e-12)])
def test_best_response_is_differentiable_through_the_optimum(activation, solver):
    """Central differences of the retrained attack."""
    x, y = rows()
    follower = replace(SMALL, activation=activation)
    v = torch.randn(follower.size(2), dtype=torch.float64)
    z = x.clone().requires_grad_()
    best_response(follower, z, y, solver=solver).value.backward(v)
    direction = torch.randn_like(x)
    ahead, behind = (follower.fit(x + s * 1e-5 * direction, y).value @ v for s in (1, -1))
    assert float((z.grad * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-5)


def test_a_batch_is_its_problems():
    (x0, y0), (x1, _) = rows(), rows(seed=1)
    x, y = torch.stack([x0, x1]).requires_grad_(), torch.stack([y0, y0])
    fit = best_response(SMALL, x, y)
    fit.value.sum().backward()
    assert fit.value.shape == (2, SMALL.size(2))
    for i, xi in enumerate((x0, x1)):
        z = xi.clone().requires_grad_()
        alone = best_response(SMALL, z, y0)
        alone.value.sum().backward()
        torch.testing.assert_close(alone.value, fit.value[i])
        torch.testing.assert_close(z.grad, x.grad[i])


def test_the_seed_decides():
    x, y = rows()
    assert torch.equal(SMALL.fit(x, y).value, SMALL.fit(x, y).value)
    assert not torch.equal(replace(SMALL, seed=1).fit(x, y).value, SMALL.fit(x, y).value)


def test_a_second_differentiation_raises():
    x, y = rows()
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(best_response(SMALL, z, y).value.sum(), z, create_graph=True)
    with pytest.raises(SolveError, match="differentiable once"):
        gradient.sum().backward()


def test_failures_are_statuses():
    x, y = rows()
    assert int(replace(SMALL, max_steps=2).fit(x, y).status) == Status.MAX_STEPS
    x[0, 0] = torch.nan
    assert int(SMALL.fit(x, y).status) == Status.NONFINITE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": ()}, r"hidden must name layers of at least one unit, got \(\)"),
        ({"hidden": (0,)}, "hidden must name layers"),
        ({"l2": 0.0}, "l2 must be > 0, got 0.0"),
        ({"activation": "relu"}, "got 'relu'; it must be smooth"),
        ({"curvature": "fisher"}, "curvature must be 'gauss_newton' or 'hessian', got 'fisher'"),
        ({"damping": -1.0}, "damping must be finite and >= 0, got -1.0"),
        ({"rtol": 1.0}, r"rtol must be in \[0, 1\), got 1.0"),
        ({"max_steps": 0}, "max_steps must be >= 1, got 0"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(DataError, match=message):
        NeuralFollower(**options)
