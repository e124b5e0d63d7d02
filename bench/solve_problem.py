"""P5's problem: the logistic Hessian of rows whose spectrum decays, an ill-conditioned system for one right-hand side.

    H = X^T diag(c) X + l2 I,   X = G diag(j^-decay) Q^T,   c = s(m) s(-m) / n,   b = X^T (s(-m) y) / n

G is Gaussian and Q orthogonal and dense, so that neither the diagonal nor single columns say where H is large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from amu_fast.bench.cases import SolveCase
from amu_fast.bench.contender import Verdict

TOLERANCE = 1e-6
#: Deviation of the margins at which the Hessian is taken.
SPREAD = 2.0
CHUNK = 2000


@dataclass(frozen=True)
class SolveProblem:
    """x (n, d) float32, labels, row weights c (n,) float32, right-hand sides (d,) float32 that calls rotate through."""

    case: SolveCase
    x: Tensor
    y: Tensor
    w: Tensor
    c: Tensor
    rhs: tuple[Tensor, ...]

    @staticmethod
    def of(case: SolveCase, device: torch.device) -> SolveProblem:
        """The same on every machine, up to rounding."""
        n, d = case.rows, case.columns
        generator = torch.Generator().manual_seed(0)
        scale = torch.arange(1, d + 1, dtype=torch.float32) ** -case.decay
        x = _rotate(torch.randn(n, d, generator=generator).mul_(scale), generator).to(device)
        w = torch.randn(d, generator=generator).to(device)
        w *= SPREAD / (x @ w).std()
        m = x @ w
        c = (torch.sigmoid(m) * torch.sigmoid(-m) / n).contiguous()
        sides = []
        for _ in range(4):
            y = torch.where(torch.rand(n, generator=generator).to(device) < torch.sigmoid(m), 1.0, -1.0)
            sides.append(x.T @ (y * torch.sigmoid(-y * m)) / n)
        return SolveProblem(case, x, y, w, c, tuple(sides))

    def product(self, v: Tensor) -> Tensor:
        """H v by two GEMVs (or GEMMs) in v's precision."""
        x, c = self.rows(v.dtype)
        weight = c if v.dim() == 1 else c[:, None]
        return x.T @ (weight * (x @ v)) + self.case.l2 * v

    def rows(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """X and c in a precision; the float64 copy is made once."""
        return (self.x, self.c) if dtype == self.x.dtype else self._wide

    @cached_property
    def _wide(self) -> tuple[Tensor, Tensor]:
        return self.x.double(), self.c.double()

    def judge(self, solution: Tensor, number: int) -> Verdict:
        """The true relative residual, in float64."""
        u, b = solution.reshape(-1).to(self.x.device).double(), self.rhs[number % len(self.rhs)].double()
        h = self.case.l2 * u
        for rows, c in zip(self.x.split(CHUNK), self.c.split(CHUNK), strict=True):
            rows = rows.double()
            h += rows.T @ (c.double() * (rows @ u))
        return Verdict(float((b - h).norm() / b.norm()), TOLERANCE)


def _rotate(x: Tensor, generator: torch.Generator) -> Tensor:
    """X Q^T with Q a Kronecker product of two random orthogonal matrices."""
    n, d = x.shape
    left = next(size for size in range(math.isqrt(d), 0, -1) if d % size == 0)
    a, b = (torch.linalg.qr(torch.randn(k, k, generator=generator)).Q for k in (left, d // left))
    return torch.matmul(torch.matmul(a, x.view(n, left, d // left)), b.T).reshape(n, d)
