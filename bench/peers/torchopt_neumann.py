"""P5 by TorchOpt's Neumann series: u = a sum_k (I - a H)^k b with a = 1 / largest eigenvalue."""

from __future__ import annotations

from functools import partial

import torch

from amu_fast.bench.p5 import SolveCall
from amu_fast.bench.solve_problem import SolveProblem

POWER_STEPS = 20
#: Above the estimate, which is from below.
MARGIN = 1.05
#: The series stops by its length alone: one that reaches 1e-6 at a condition number of 1e4 needs some 1e5 terms.
TERMS = 200_000


def neumann(problem: SolveProblem, dtype: torch.dtype) -> SolveCall:
    """The eigenvalue is found once, outside the timing."""
    from torchopt.linear_solve import solve_inv

    v = problem.rhs[0].to(dtype)
    for _ in range(POWER_STEPS):
        v = problem.product(v / v.norm())
    rate = 1 / (MARGIN * float(v.norm()))
    solver = partial(solve_inv(ns=True, maxiter=TERMS, alpha=rate), problem.product)
    return SolveCall(problem, lambda rhs: solver(rhs.to(dtype)))
