"""P5 by scipy's CG with PyTorch's products: what one writes without a library for it."""

from __future__ import annotations

import torch
from torch import Tensor

from amu_fast.bench.p5 import SolveCall
from amu_fast.bench.peers.jaxopt_root import on_cpu
from amu_fast.bench.solve_problem import SolveProblem

RTOL, MAX_STEPS = 5e-7, 5000


def two_gemvs(problem: SolveProblem) -> SolveCall:
    """No preconditioner; scipy's vectors are float64, the products float32."""
    from scipy.sparse.linalg import LinearOperator, cg

    on_cpu(problem.x.device)
    d = problem.case.columns

    def product(v):  # type: ignore[no-untyped-def]
        return problem.product(torch.from_numpy(v).float()).numpy()

    operator = LinearOperator((d, d), matvec=product, dtype="float32")

    def solve(rhs: Tensor) -> Tensor:
        return torch.from_numpy(cg(operator, rhs.numpy(), rtol=RTOL, atol=0.0, maxiter=MAX_STEPS)[0])

    return SolveCall(problem, solve)
