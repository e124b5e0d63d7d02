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

EPS, MAX_STEPS = 1e-30, 5000
#: Of P5; float32 needs a margin, because the recurrence's residual drifts from the true one.
TOLERANCE = {torch.float32: 3e-7, torch.float64: 9e-7}


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
        return lambda a, b: _cg(a.matmul, b[..., None], tolerance, steps)[..., 0]

    return tuned(problem, make)


def plain(problem: SolveProblem, dtype: torch.dtype) -> SolveCall:
    """P5 without a preconditioner."""
    return SolveCall(problem, lambda rhs: _relative(problem, rhs.to(dtype), None))


def pivoted(problem: SolveProblem, dtype: torch.dtype) -> SolveCall:
    """P5 with the library's own preconditioner of a low-rank matrix plus a diagonal, made in every call."""
    from linear_operator import settings
    from linear_operator.operators import AddedDiagLinearOperator, ConstantDiagLinearOperator

    x, c = problem.rows(dtype)
    root = x.T * c.sqrt()
    diagonal = torch.tensor([problem.case.l2], device=root.device, dtype=dtype)

    def solve(rhs: Tensor) -> Tensor:
        operator = AddedDiagLinearOperator(_gram(root), ConstantDiagLinearOperator(diagonal, root.shape[0]))
        with settings.max_preconditioner_size(problem.case.peer_rank), settings.min_preconditioning_size(1):
            preconditioner, *_ = operator._preconditioner()
        return _relative(problem, rhs.to(dtype), preconditioner)

    return SolveCall(problem, solve)


def _gram(root: Tensor) -> Any:
    """R R^T whose rows cost one product each; the library would copy R twice for each of them."""
    from linear_operator.operators import RootLinearOperator

    class Gram(RootLinearOperator):
        def _get_indices(self, row_index: Tensor, col_index: Tensor, *batch: Tensor) -> Tensor:
            # Pivoted Cholesky asks for one row at a time.
            return (root @ root[row_index[0]])[col_index]

    return Gram(root)


def _relative(problem: SolveProblem, rhs: Tensor, preconditioner: Any) -> Tensor:
    size = rhs.norm()
    tolerance = TOLERANCE[rhs.dtype]
    return _cg(problem.product, (rhs / size)[:, None], tolerance, MAX_STEPS, preconditioner)[:, 0] * size
