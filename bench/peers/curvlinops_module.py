"""P4 by curvlinops: its Hessian operator and its inverse by CG, which is GPyTorch's `linear_cg`."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from amu_fast.bench.module_problem import ModuleProblem
from amu_fast.bench.p4 import ModuleCall


def inverse(problem: ModuleProblem) -> ModuleCall:
    """Exactly the steps that are asked for: no tolerance, no early stop."""
    from curvlinops import CGInverseLinearOperator, HessianLinearOperator

    case = problem.case
    hessian = HessianLinearOperator(
        problem.net, torch.nn.CrossEntropyLoss(), problem.parameters, [(problem.x, problem.y)],
        check_deterministic=False,
    )  # fmt: skip

    class Damped:
        """What `CGInverseLinearOperator` asks of its operator; curvlinops has no identity to add."""

        def __getattr__(self, name: str) -> Any:
            return getattr(hessian, name)

        def __matmul__(self, matrix: Tensor) -> Tensor:
            return (hessian @ matrix).add_(matrix, alpha=case.damping)

    options = {
        "max_iter": case.steps,
        "tolerance": 0.0,
        "eps": 1e-30,
        "stop_updating_after": 0.0,
        "max_tridiag_iter": 0,
    }
    solver = CGInverseLinearOperator(Damped(), **options)

    def solve(rhs: Tensor) -> Tensor:
        with torch.no_grad(), warnings.catch_warnings():
            # It says that it did not reach a tolerance of zero.
            warnings.simplefilter("ignore")
            return solver @ rhs

    return ModuleCall(problem, solve)
