"""Systems with known spectra, and what a solution must satisfy whatever solver made it."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from amu_fast.linalg import MatrixOperator
from amu_fast.status import Status

DTYPES = (torch.float32, torch.float64)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@lru_cache(maxsize=64)
def basis(p, batch=(), seed=0):
    """Random orthogonal matrices, (*b, p, p)."""
    return torch.linalg.qr(normal(*batch, p, p, seed=seed)).Q


def symmetric(eigenvalues, batch=(), seed=0, dtype=torch.float64):
    """Q diag(eigenvalues) Q^T for eigenvalues (*b, p) or (p,)."""
    q = basis(eigenvalues.shape[-1], tuple(batch), seed)
    a = (q * eigenvalues[..., None, :]) @ q.mT
    return ((a + a.mT) / 2).to(dtype)


def spectrum(p, kappa, decay="log"):
    """From 1 down to 1/kappa."""
    if decay == "log":
        return torch.logspace(0, -math.log10(kappa), p, dtype=torch.float64)
    return torch.linspace(1, 1 / kappa, p, dtype=torch.float64)


def spd(p, kappa, batch=(), seed=0, dtype=torch.float64, decay="log"):
    return symmetric(spectrum(p, kappa, decay), batch, seed, dtype)


def statuses(solution):
    """The set of statuses that occur, as names."""
    return {Status(code).name for code in solution.status.flatten().tolist()}


def residual_norms(matrix, rhs, value):
    """||v - A u|| in float64 for (*b, p, p) and (*k, *b, p)."""
    product = (matrix.double() @ value.double()[..., None])[..., 0]
    return (rhs.double() - product).norm(dim=-1)


def rounding(matrix, rhs, value):
    """What computing a residual in the matrix' dtype can cost: (p + 2) eps (|| |A| |u| || + ||v||)."""
    eps = torch.finfo(matrix.dtype).eps
    product = (matrix.double().abs() @ value.double().abs()[..., None])[..., 0]
    return (matrix.shape[-1] + 2) * eps * (product.norm(dim=-1) + rhs.double().norm(dim=-1))


def assert_solved(matrix, rhs, solution, rtol, smallest):
    """CONVERGED everywhere, the claimed residual is the real one, and the error is what that residual allows."""
    assert statuses(solution) <= {"CONVERGED"}
    slack = rounding(matrix, rhs, solution.value)
    actual = residual_norms(matrix, rhs, solution.value)
    assert bool(((solution.residual_norms - actual).abs() <= slack).all())
    target = rtol * rhs.double().norm(dim=-1)
    assert bool((solution.residual_norms <= target * (1 + 1e-12)).all())
    exact = torch.linalg.solve(matrix.double(), rhs.double()[..., None])[..., 0]
    error = (solution.value.double() - exact).norm(dim=-1)
    assert bool((error <= (target + slack) / smallest).all())


class Questions(TorchDispatchMode):
    """Counts how often the host asks for a number: every `bool(tensor)` or `.item()`."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class Counting:
    """An operator that counts its products."""

    def __init__(self, matrix):
        self.base, self.products = MatrixOperator(matrix), 0

    shape = property(lambda self: self.base.shape)
    dtype = property(lambda self: self.base.dtype)
    device = property(lambda self: self.base.device)

    def matvec(self, v):
        self.products += 1
        return self.base.matvec(v)
