"""P3 by JAX's CG under `vmap` and `jit`: a system that has converged waits for the slowest."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from amu_fast.bench.p3 import Solver, TunedCall, tuned
from amu_fast.bench.peers.jaxopt_root import load, on_cpu
from amu_fast.bench.spd_problem import SpdProblem

STEPS_PER_UNKNOWN = 5


def batched(problem: SpdProblem) -> TunedCall:
    """One call for all systems."""
    on_cpu(problem.matrix.device)
    jax = load()
    from jax.scipy.sparse.linalg import cg

    def make(tolerance: float) -> Solver:
        steps = STEPS_PER_UNKNOWN * problem.case.unknowns
        solve = jax.jit(jax.vmap(lambda a, b: cg(a.__matmul__, b, tol=tolerance, maxiter=steps)[0]))

        def call(a: Tensor, b: Tensor) -> Tensor:
            return torch.from_numpy(np.array(solve(a.numpy(), b.numpy())))

        return call

    return tuned(problem, make)
