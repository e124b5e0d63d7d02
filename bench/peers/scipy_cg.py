"""P5 by scipy's CG with PyTorch's products: what one writes without a library for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from amu_fast.bench.p5 import SolveCall
from amu_fast.bench.peers.jaxopt_root import on_cpu
from amu_fast.bench.solve_problem import SolveProblem

MAX_STEPS = 5000
#: Float32 needs a margin, because the recurrence's residual drifts from the true one.
RTOL = {torch.float32: 3e-7, torch.float64: 9e-7}


def two_gemvs(problem: SolveProblem, dtype: torch.dtype) -> SolveCall:
    """No preconditioner; scipy's vectors are float64, the products `dtype`."""
    from scipy.sparse.linalg import LinearOperator, cg

    on_cpu(problem.x.device)
    d = problem.case.columns

    def product(v: np.ndarray) -> np.ndarray:
        return problem.product(torch.from_numpy(v).to(dtype)).numpy()

    operator = LinearOperator((d, d), matvec=product, dtype=str(dtype).removeprefix("torch."))

    def solve(rhs: Tensor) -> Tensor:
        return torch.from_numpy(cg(operator, rhs.to(dtype).numpy(), rtol=RTOL[dtype], atol=0.0, maxiter=MAX_STEPS)[0])

    return SolveCall(problem, solve)
