"""P5 by pyDVL: its randomised Nystrom preconditioner and its block CG, on products by two GEMMs.

Its own Hessian products go through autograd and would cost more; the solver is what is compared.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from amu_fast.bench.p5 import SolveCall
from amu_fast.bench.solve_problem import SolveProblem

#: It stops at a residual of rtol^2 |b|, although its description says rtol.
RTOL, ATOL, MAX_STEPS = 5e-7**0.5, 1e-9, 500


def nystrom(problem: SolveProblem, dtype: torch.dtype) -> SolveCall:
    """The preconditioner is fitted in every call, as ours is."""
    from pydvl.influence.torch.operator import CgOperator
    from pydvl.influence.torch.preconditioner import NystroemPreconditioner

    logging.getLogger("pydvl").setLevel(logging.ERROR)
    operator, l2 = _operator(problem, dtype), problem.case.l2

    def solve(rhs: Tensor) -> Tensor:
        preconditioner = NystroemPreconditioner(problem.case.peer_rank).fit(operator, l2)
        solver = CgOperator(operator, l2, RTOL, ATOL, MAX_STEPS, preconditioner=preconditioner, use_block_cg=True)
        size = rhs.norm()
        return solver.apply((rhs / size).to(dtype)[None])[0] * size

    return SolveCall(problem, solve)


def _operator(problem: SolveProblem, kind: torch.dtype) -> Any:
    from pydvl.influence.torch.base import TensorOperator

    class Products(TensorOperator):
        """X^T C X without the regulariser, which pyDVL adds itself; vectors are rows."""

        @property
        def device(self) -> torch.device:
            return problem.x.device

        @property
        def dtype(self) -> torch.dtype:
            return kind

        @property
        def input_size(self) -> int:
            return problem.case.columns

        def to(self, device: torch.device) -> Any:
            return self

        def _apply_to_vec(self, vec: Tensor) -> Tensor:
            return problem.product(vec) - problem.case.l2 * vec

        def _apply_to_mat(self, mat: Tensor) -> Tensor:
            return (problem.product(mat.T) - problem.case.l2 * mat.T).T

    return Products()
