"""P4 by pyDVL: its Hessian operator and its CG, whose first iterate is the right-hand side."""

from __future__ import annotations

import logging
import warnings

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (its usual name)

from amu_fast.bench.module_problem import ModuleProblem
from amu_fast.bench.p4 import ModuleCall


def conjugate_gradient(problem: ModuleProblem) -> ModuleCall:
    """No tolerance, so that it makes all steps."""
    from pydvl.influence.torch.operator import CgOperator, HessianOperator
    from torch.utils.data import DataLoader, TensorDataset

    logging.getLogger("pydvl").setLevel(logging.ERROR)
    case = problem.case
    loader = DataLoader(TensorDataset(problem.x, problem.y), batch_size=case.rows)
    hessian = HessianOperator(problem.net, F.cross_entropy, loader)
    solver = CgOperator(hessian, case.damping, 0.0, 0.0, case.steps, warn_on_max_iteration=False)

    def solve(rhs: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return solver.apply(rhs[None])[0]

    return ModuleCall(problem, solve, start="rhs")
