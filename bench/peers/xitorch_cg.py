"""P3 by xitorch's CG. Its guard against a zero denominator, 1e-12, would spoil small curvatures, hence 1e-30."""

from __future__ import annotations

import warnings

from torch import Tensor

from amu_fast.bench.p3 import Solver, TunedCall, tuned
from amu_fast.bench.spd_problem import SpdProblem

EPS, STEPS_PER_UNKNOWN = 1e-30, 5


def batched(problem: SpdProblem) -> TunedCall:
    """One call for all systems."""
    from xitorch import LinearOperator
    from xitorch.linalg import solve

    def make(tolerance: float) -> Solver:
        steps = STEPS_PER_UNKNOWN * problem.case.unknowns

        def call(a: Tensor, b: Tensor) -> Tensor:
            operator = LinearOperator.m(a, is_hermitian=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return solve(
                    operator, b[..., None], method="cg", posdef=True, rtol=tolerance, atol=0.0, eps=EPS, max_niter=steps
                )[..., 0]

        return call

    return tuned(problem, make)
