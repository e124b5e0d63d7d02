"""P5 without iterations: the Hessian as a matrix, n d^2 operations, and its Cholesky factor."""

from __future__ import annotations

import torch
from torch import Tensor

from amu_fast.bench.p5 import SolveCall
from amu_fast.bench.solve_problem import SolveProblem


def cholesky(problem: SolveProblem, dtype: torch.dtype) -> SolveCall:
    """Formed and factored in every call, as the others set up theirs."""
    x, c = problem.rows(dtype)

    def solve(rhs: Tensor) -> Tensor:
        matrix = x.T @ (c[:, None] * x)
        matrix.diagonal().add_(problem.case.l2)
        return torch.cholesky_solve(rhs.to(dtype)[:, None], torch.linalg.cholesky(matrix))[:, 0]

    return SolveCall(problem, solve)
