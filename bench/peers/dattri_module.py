"""P4 by dattri: `ihvp_at_x_cg`, whose tolerance is not looked at and whose first iterate is the right-hand side."""

from __future__ import annotations

import torch
from torch import Tensor

from amu_fast.bench.module_problem import ModuleProblem
from amu_fast.bench.p4 import ModuleCall


def ihvp(problem: ModuleProblem) -> ModuleCall:
    """Reverse over reverse at a fixed point, so its graph is kept."""
    from dattri.func.hessian import ihvp_at_x_cg

    case = problem.case
    flat = torch.cat([p.detach().reshape(-1) for p in problem.parameters])

    def solve(rhs: Tensor) -> Tensor:
        with torch.no_grad():
            solver = ihvp_at_x_cg(
                lambda w: problem.functional(problem.tree(w)), flat, max_iter=case.steps, regularization=case.damping
            )
            return solver(rhs)[0]

    return ModuleCall(problem, solve, start="rhs")
