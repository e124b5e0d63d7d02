"""Training a small network to a stationary point: Newton's method with the curvature made positive.

    small p    (|H| + mu I) s = -dg               |H|: the Hessian with its eigenvalues' absolute values
    large p    (J^T C J + (l2 + mu) I) s = -dg    near the end H s = -dg by conjugate gradients, preconditioned by it

mu falls while steps succeed and rises where they do not. With |H| saddle points repel and minima attract, at the end
quadratically; Gauss-Newton alone converges linearly, slowly where the attack's errors stay large.

Source: Dauphin et al., "Identifying and attacking the saddle point problem", NIPS 2014, for |H|; Levenberg 1944.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from amu_fast.linalg import ConjugateGradient
from amu_fast.ops.vectors import norm
from amu_fast.status import Status

if TYPE_CHECKING:
    from amu_fast.followers.neural import NeuralFollower

_DENSE = 512  # largest p for the first way
_FIRST, _LEAST, _MOST = 1e-2, 1e-12, 1e10  # mu
_FALL, _RISE = 1 / 3, 4.0
_NEAR = 0.1  # Newton is tried when the gradient is below this share of the first one ...
_NEWTON = ConjugateGradient(rtol=1e-4, max_steps=200)
_SLACK = 4e-16  # ... of |g|: what rounding hides of a fall


def descend(follower: NeuralFollower, start: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train one attack. Waits for the device.

    Returns:
        w (p,), its status, |dg(w)| and the steps taken, scalars.
    """
    with torch.no_grad():
        at = _Point.of(follower, start, x, y)
        rows = norm(at.jacobian).mean()
        target = max(follower.rtol * float(at.size), 32 * 2.0**-53 * float(rows))
        first, mu, status, steps = float(at.size), _FIRST, Status.MAX_STEPS, 0
        while steps < follower.max_steps:
            if not bool(torch.isfinite(at.size)):
                status = Status.NONFINITE
                break
            if float(at.size) <= target:
                status = Status.CONVERGED
                break
            steps += 1
            newton = len(at.w) > _DENSE and float(at.size) < _NEAR * first
            following = at.newton(x, y) if newton else None
            if following is None:
                following, mu = at.damped(x, y, mu)
            if following is None:
                status = Status.STAGNATED
                break
            at = following
    device = start.device
    return at.w, torch.tensor(int(status), device=device), at.size, torch.tensor(steps, device=device)


@dataclass(frozen=True, eq=False)
class _Point:
    """An iterate, with what a step from it needs."""

    follower: NeuralFollower
    w: Tensor
    jacobian: Tensor
    c: Tensor
    value: Tensor
    gradient: Tensor

    @classmethod
    def of(cls, follower: NeuralFollower, w: Tensor, x: Tensor, y: Tensor) -> _Point:
        f, jacobian, slopes, c = follower.linearised(w, x, y)
        value = torch.nn.functional.softplus(-y * f).mean() + 0.5 * follower.l2 * w.square().sum()
        return cls(follower, w, jacobian, c, value, jacobian.mT @ slopes + follower.l2 * w)

    @property
    def size(self) -> Tensor:
        return norm(self.gradient)

    def damped(self, x: Tensor, y: Tensor, mu: float) -> tuple[_Point | None, float]:
        """The first damped step that lowers g, and the next mu; None where none does."""
        curvature = _Absolute.at(self, x, y) if len(self.w) <= _DENSE else None
        while mu <= _MOST:
            inverse: _Absolute | _GaussNewtonInverse
            inverse = _GaussNewtonInverse.at(self, mu) if curvature is None else curvature.damped(mu)
            step = inverse.matvec(self.gradient)
            trial = _Point.of(self.follower, self.w - step, x, y)
            if bool(trial.value < self.value - 1e-4 * (step @ self.gradient)) or self._better(trial):
                return trial, max(mu * _FALL, _LEAST)
            mu *= _RISE
        return None, mu

    def newton(self, x: Tensor, y: Tensor) -> _Point | None:
        """Newton's step where H is positive definite along it and it lowers the gradient, not g's value."""
        solution = _NEWTON.solve(
            _Hessian.at(self, x, y), self.gradient, preconditioner=_GaussNewtonInverse.at(self, _LEAST)
        )
        if int(solution.status) not in (Status.CONVERGED, Status.MAX_STEPS):
            return None
        trial = _Point.of(self.follower, self.w - solution.value, x, y)
        return trial if self._better(trial) else None

    def _better(self, trial: _Point) -> bool:
        """A smaller gradient at no higher value, as far as rounding lets that be seen."""
        lower = trial.value <= self.value + _SLACK * self.value.abs()
        return bool(lower & (trial.size < 0.9 * self.size))


@dataclass(frozen=True, eq=False)
class _Absolute:
    """(|H| + mu I)^-1 by eigenvalues."""

    values: Tensor
    vectors: Tensor
    mu: float = 0.0

    @classmethod
    def at(cls, point: _Point, x: Tensor, y: Tensor) -> _Absolute:
        values, vectors = torch.linalg.eigh(point.follower.exact_hessian(point.w, x, y))
        return cls(values.abs(), vectors)

    def damped(self, mu: float) -> _Absolute:
        return _Absolute(self.values, self.vectors, mu)

    def matvec(self, v: Tensor) -> Tensor:
        return self.vectors @ ((self.vectors.mT @ v) / (self.values + self.mu))


@dataclass(frozen=True, eq=False)
class _GaussNewtonInverse:
    """(J^T C J + s I)^-1, factored in the smaller of n and p dimensions."""

    a: Tensor
    factor: Tensor
    shift: float

    @classmethod
    def at(cls, point: _Point, mu: float) -> _GaussNewtonInverse:
        a = point.c.sqrt()[:, None] * point.jacobian
        n, p = a.shape
        gram = a @ a.mT if n < p else a.mT @ a
        shift = point.follower.l2 + mu
        gram.diagonal().add_(shift)
        return cls(a, torch.linalg.cholesky_ex(gram)[0], shift)

    @property
    def shape(self) -> torch.Size:
        p = self.a.shape[1]
        return torch.Size((p, p))

    @property
    def dtype(self) -> torch.dtype:
        return self.a.dtype

    @property
    def device(self) -> torch.device:
        return self.a.device

    def matvec(self, v: Tensor) -> Tensor:
        columns = v.reshape(-1, v.shape[-1]).mT
        if len(self.factor) == self.a.shape[1]:
            solved = torch.cholesky_solve(columns, self.factor)
        else:
            inner = torch.cholesky_solve(self.a @ columns, self.factor)
            solved = (columns - self.a.mT @ inner) / self.shift
        return solved.mT.reshape(v.shape)


@dataclass(frozen=True, eq=False)
class _Hessian:
    """d2g/dw2 by products: the gradient's graph, kept."""

    w: Tensor
    gradient: Tensor

    @classmethod
    def at(cls, point: _Point, x: Tensor, y: Tensor) -> _Hessian:
        with torch.enable_grad():
            w = point.w.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(point.follower.objective(w, x, y), w, create_graph=True)
        return cls(w, gradient)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.w), len(self.w)))

    @property
    def dtype(self) -> torch.dtype:
        return self.w.dtype

    @property
    def device(self) -> torch.device:
        return self.w.device

    def matvec(self, v: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(self.gradient, self.w, v, retain_graph=True, is_grads_batched=v.dim() > 1)
        return product
