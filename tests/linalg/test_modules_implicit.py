"""A network as a follower: `best_response` through a `HessianOperator`, against finite differences of the optimum."""

from __future__ import annotations

import torch
from linalg import networks as nets

from amu_fast.implicit import best_response
from amu_fast.linalg import ConjugateGradient, HessianOperator, Solution
from amu_fast.status import Status

L2 = 0.1


def energy(w, x):
    """A hidden layer of two units onto a target that is a function of the rows."""
    hidden = torch.tanh(x @ w["w"][:6].reshape(3, 2))
    residual = hidden @ w["w"][6:] - torch.sin(x.sum(-1))
    return residual.square().mean() + 0.5 * L2 * w["w"].square().sum()


class Network:
    """Newton until the gradient is rounding, from a start near which one optimum is."""

    def __init__(self, start):
        self.start = start

    def fit(self, x):
        w = self.start
        for _ in range(10):
            gradient = torch.func.grad(lambda w: energy({"w": w}, x))(w)
            hessian = torch.func.hessian(lambda w: energy({"w": w}, x))(w)
            w = w - torch.linalg.solve(hessian, gradient)
        norm = torch.linalg.vector_norm(gradient)
        return Solution(w, torch.tensor(int(Status.CONVERGED), dtype=torch.int8), norm, torch.tensor(10))

    def hessian(self, params, x):
        return HessianOperator({"w": params}, energy, x.split([2, 3]))

    def mixed_vjp(self, params, adjoint, x):
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            w = params.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(energy({"w": w}, z), w, create_graph=True)
            return (-torch.autograd.grad(gradient @ adjoint, z)[0],)


def test_the_gradient_of_a_networks_optimum():
    x = nets.normal(5, 3, seed=11)
    direction, cotangent = nets.normal(5, 3, seed=12), nets.normal(8, seed=13)
    leaf = x.clone().requires_grad_()
    first = torch.linspace(-0.3, 0.5, 8, dtype=torch.float64)
    for _ in range(100):
        # Down to a minimum's neighbourhood; Newton alone would also end in a saddle.
        first = first - 0.5 * torch.func.grad(lambda w: energy({"w": w}, x))(first)
    fitted = best_response(Network(first), leaf, solver=ConjugateGradient(rtol=1e-12)).raise_for_status()
    assert float(fitted.residual_norms) <= 1e-12
    fitted.value.backward(cotangent)
    h = 1e-5
    ahead, behind = (Network(first).fit(x + s * direction).value @ cotangent for s in (h, -h))
    expected = (ahead - behind) / (2 * h)
    assert abs(float((leaf.grad * direction).sum() - expected)) <= 1e-7 * abs(float(expected))
