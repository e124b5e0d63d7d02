"""P4 by TorchOpt: its CG on the product that its implicit differentiation makes, a vjp of the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from amu_fast.bench.module_problem import ModuleProblem
from amu_fast.bench.p4 import ModuleCall


def implicit_cg(problem: ModuleProblem) -> ModuleCall:
    """As `torchopt.diff.implicit` solves; without a graph of the solve itself."""
    from torchopt.linear_solve import solve_cg

    solver = solve_cg(ridge=problem.case.damping, maxiter=problem.case.steps, rtol=0.0, atol=0.0)
    values = tuple(p.detach() for p in problem.parameters)

    @torch.no_grad()
    def solve(rhs: Tensor) -> Tensor:
        _, pull_back, *_ = torch.func.vjp(torch.func.grad(problem.functional), values)
        solution = solver(lambda v: pull_back(v)[0], problem.tree(rhs))
        return torch.cat([part.reshape(-1) for part in solution])

    return ModuleCall(problem, solve)
