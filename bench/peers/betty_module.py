"""P4 by Betty: its `cg` returns -d<g, u>/dz, so the loss gets a term <w, z>, for which that is -u."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from amu_fast.bench.module_problem import ModuleProblem
from amu_fast.bench.p4 import ModuleCall


def conjugate_gradient(problem: ModuleProblem) -> ModuleCall:
    """The function that its engine calls, with what it looks at of two problems."""
    from betty.hypergradient.cg import cg

    case, values = problem.case, problem.parameters
    upper = [torch.zeros_like(p, requires_grad=True) for p in values]

    def training_step(batch: tuple[Tensor, Tensor]) -> Tensor:
        coupled = sum(
            ((w * z).sum() + 0.5 * case.damping * w.square().sum()) for w, z in zip(values, upper, strict=True)
        )
        return problem.loss(problem.net, batch) + coupled

    lower = SimpleNamespace(
        paths=(), config=SimpleNamespace(cg_iterations=case.steps, cg_alpha=1.0), cur_batch=(problem.x, problem.y),
        training_step_exec=training_step, parameters=lambda: values, trainable_parameters=lambda: values,
    )  # fmt: skip
    above = SimpleNamespace(trainable_parameters=lambda: upper)

    def solve(rhs: Tensor) -> Tensor:
        return -torch.cat([part.reshape(-1) for part in cg(problem.tree(rhs), lower, above, sync=False)])

    return ModuleCall(problem, solve)
