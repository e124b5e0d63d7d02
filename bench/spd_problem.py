"""P3's problem: a batch of dense symmetric positive definite systems with known eigenvalues."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from amu_fast.bench.cases import SpdCase
from amu_fast.bench.contender import Verdict

TOLERANCE = {"float32": 1e-5, "float64": 1e-9}
REFLECTIONS = 4


@dataclass(frozen=True)
class SpdProblem:
    """matrix (B, p, p) and right-hand sides (B, p) that calls rotate through."""

    case: SpdCase
    matrix: Tensor
    rhs: tuple[Tensor, ...]

    @staticmethod
    def of(case: SpdCase, device: torch.device) -> SpdProblem:
        """Eigenvalues spread evenly in the logarithm between 1/kappa and 1, eigenvectors by random reflections."""
        generator = torch.Generator().manual_seed(0)
        batch, p, kind = case.batch, case.unknowns, getattr(torch, case.dtype)
        matrix = torch.diag_embed(torch.logspace(0, -torch.tensor(case.condition).log10(), p, dtype=torch.float64))
        matrix = matrix.expand(batch, p, p).clone().to(device)
        for _ in range(REFLECTIONS):
            v = torch.randn(batch, p, 1, generator=generator, dtype=torch.float64).to(device)
            v /= v.norm(dim=1, keepdim=True)
            av = matrix @ v
            # (I - 2vv^T) A (I - 2vv^T) = A - 2 (v q^T + q v^T) with q = Av - (v^T A v) v
            q = av - (v.mT @ av) * v
            matrix -= 2 * (v @ q.mT + q @ v.mT)
        sides = (torch.randn(batch, p, generator=generator, dtype=torch.float64) for _ in range(4))
        return SpdProblem(case, matrix.to(kind), tuple(b.to(device, kind) for b in sides))

    @cached_property
    def exact(self) -> Tensor:
        """The first right-hand side's solution, in float64 with one refinement."""
        a, b = self.matrix.double(), self.rhs[0].double()[..., None]
        lower = torch.linalg.cholesky(a)
        x = torch.cholesky_solve(b, lower)
        return (x + torch.cholesky_solve(b - a @ x, lower))[..., 0]

    def first(self, systems: int) -> SpdProblem:
        """The first systems of the batch."""
        return replace(self, matrix=self.matrix[:systems], rhs=tuple(b[:systems] for b in self.rhs))

    def judge(self, solution: Tensor) -> Verdict:
        """Worst relative error over the batch, for the first right-hand side."""
        error = (solution.double() - self.exact).norm(dim=-1) / self.exact.norm(dim=-1)
        worst = float(error.max()) if bool(error.isfinite().all()) else float("nan")
        return Verdict(worst, TOLERANCE[self.case.dtype], units=self.case.batch)
