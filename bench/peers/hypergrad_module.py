"""P4 by hypergrad: it returns -d<g, u>/dz, so the inner objective gets a term <w, z>, for which that is -u."""

from __future__ import annotations

import torch
from torch import Tensor

from amu_fast.bench.module_problem import ModuleProblem
from amu_fast.bench.p4 import ModuleCall

Values = tuple[Tensor, ...]


def conjugate_gradient(problem: ModuleProblem) -> ModuleCall:
    """Its step size is 1: others solve another system."""
    from hypergrad.approx_hypergrad import conjugate_gradient as solver

    case = problem.case
    values = tuple(p.detach() for p in problem.parameters)
    upper = tuple(torch.zeros_like(w) for w in values)

    def inner(w: Values, z: Values) -> Tensor:
        terms = [(a * b).sum() + 0.5 * case.damping * a.square().sum() for a, b in zip(w, z, strict=True)]
        return problem.functional(w) + torch.stack(terms).sum()

    def solve(rhs: Tensor) -> Tensor:
        parts = problem.tree(rhs)

        def outer(w: Values, z: Values) -> Tensor:
            return torch.stack([(a * b).sum() + 0.0 * c.sum() for a, b, c in zip(w, parts, z, strict=True)]).sum()

        with torch.no_grad():
            return -torch.cat([g.reshape(-1) for g in solver(inner, outer, values, upper, case.steps, 1.0)])

    return ModuleCall(problem, solve)
