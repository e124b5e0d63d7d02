"""linear_operator's CG (GPyTorch's): for P3 on batches, for P5 with and without its pivoted Cholesky.

Its default `eps` of 1e-10 stalls on small curvatures, hence 1e-30; it stops on the *mean* residual of a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from amu_fast.bench.p3 import TunedCall, tuned
from amu_fast.bench.p5 import SolveCall
from amu_fast.bench.solve_problem import SolveProblem
from amu_fast.bench.spd_problem import SpdProblem

EPS, TOLERANCE, MAX_STEPS = 1e-30, 3e-7, 5000


def _cg(matmul: Callable[[Tensor], Tensor], rhs: Tensor, tolerance: float, steps: int, m: Any = None) -> Tensor:
    from linear_operator.utils import linear_cg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return linear_cg(
            matmul, rhs, tolerance=tolerance, eps=EPS, stop_updating_after=EPS, max_iter=steps, preconditioner=m
        )


def batched(problem: SpdProblem) -> TunedCall:
    """P3: one call for all systems."""
    steps = 10 * problem.case.unknowns

    def make(tolerance: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda a, b: _cg(problem.stopping(a.matmul), b[..., None], tolerance, steps)[..., 0]

    return tuned(problem, make)


def plain(problem: SolveProblem) -> SolveCall:
    """P5 without a preconditioner."""
    return SolveCall(problem, lambda rhs: _relative(problem, rhs, None))


def pivoted(problem: SolveProblem) -> SolveCall:
    """P5 with the library's own preconditioner of a low-rank matrix plus a diagonal."""
    from linear_operator import settings
    from linear_operator.operators import AddedDiagLinearOperator, ConstantDiagLinearOperator, RootLinearOperator

    root = problem.x.T * problem.c.sqrt()
    diagonal = torch.tensor([problem.case.l2], device=root.device)

    def solve(rhs: Tensor) -> Tensor:
        operator = AddedDiagLinearOperator(
            RootLinearOperator(root), ConstantDiagLinearOperator(diagonal, root.shape[0])
        )
        with settings.max_preconditioner_size(problem.case.peer_rank), settings.min_preconditioning_size(1):
            preconditioner, *_ = operator._preconditioner()
        return _relative(problem, rhs, preconditioner)

    return SolveCall(problem, solve)


def _relative(problem: SolveProblem, rhs: Tensor, preconditioner: Any) -> Tensor:
    size = rhs.norm()
    return _cg(problem.product, (rhs / size)[:, None], TOLERANCE, MAX_STEPS, preconditioner)[:, 0] * size
