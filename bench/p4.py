"""P4, inverse Hessian products of whole networks: who takes part and what the products of 20 CG steps cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from amu_fast.bench.cases import ModuleCase
from amu_fast.bench.contender import Call, Contender, Limit, Verdict
from amu_fast.bench.memory import peak
from amu_fast.bench.module_problem import ModuleProblem, textbook
from amu_fast.bench.p1 import load_peer
from amu_fast.bench.roofline import Ceiling, Sizes, gemm, reads
from amu_fast.linalg import ConjugateGradient, DampedOperator, HessianOperator

SOLVE = "graph + solve"
#: Seconds in which a contender must be ready.
PATIENCE = 120.0


@dataclass(frozen=True)
class ModuleCall:
    """20 steps of CG for one right-hand side, from 0 or ("rhs") from the right-hand side itself."""

    problem: ModuleProblem
    solve: Callable[[Tensor], Tensor]
    start: str = "zero"

    def __call__(self, number: int) -> Tensor:
        """The iterate for one of the right-hand sides."""
        return self.solve(self.problem.rhs[number % len(self.problem.rhs)])


def build(case: ModuleCase, device: torch.device) -> ModuleProblem:
    """Network, rows and right-hand sides."""
    return ModuleProblem.of(case, device)


def contenders(case: ModuleCase) -> list[Contender]:
    """Ours first; every call begins with the network, so graphs are built in it."""

    def peer(name: str, module: str, function: str, notes: str = "") -> Contender:
        return Contender(name, partial(load_peer, module, function, ()), SOLVE, "float32", notes=notes)

    return [
        Contender("amu_fast", ours, SOLVE, "float32", ours=True, notes="graph kept; one more product judges"),
        Contender("amu_fast, jvp", partial(ours, mode="jvp"), SOLVE, "float32", notes="nothing kept between products"),
        Contender("eager double backward", eager, SOLVE, "float32", notes="graph kept, textbook CG"),
        peer("TorchOpt", "torchopt_module", "implicit_cg", "graph kept"),
        peer("curvlinops", "curvlinops_module", "inverse", "forward again in every product"),
        peer("dattri", "dattri_module", "ihvp", "graph kept; starts at b"),
        peer("pyDVL", "pydvl_module", "conjugate_gradient", "forward again in every product; starts at b"),
        peer("Betty", "betty_module", "conjugate_gradient", "graph kept, cg_alpha 1"),
        peer("hypergrad", "hypergrad_module", "conjugate_gradient", "forward over reverse"),
    ]


def check(problem: ModuleProblem, call: Call) -> Verdict:
    """The distance to the iterate in float64; the peak of memory by the way."""
    assert isinstance(call, ModuleCall)
    verdict = problem.judge(call(0), 0, call.start)
    return replace(verdict, notes=f"peak {peak(lambda: call(0), problem.device) / 2**20:.1f} MiB")


def units(problem: ModuleProblem) -> tuple[int, str]:
    """Times are per step of CG."""
    return problem.case.steps, "step"


def limit(problem: ModuleProblem) -> Limit:
    """The matrix products of one Hessian product per step, its graph being kept."""
    return Limit(0.0, problem.case.steps * problem.flops, "float32")


def ceilings(problem: ModuleProblem, sizes: Sizes) -> Mapping[str, Ceiling]:
    """Matrix products; nothing here is bound by memory, which is read for the record."""
    return {**reads(sizes, problem.device), "gemm float32": gemm("float32", sizes, problem.device)}


def ours(problem: ModuleProblem, mode: str = "double_backward") -> ModuleCall:
    """The operator is built in every call."""
    solver = ConjugateGradient(rtol=0.0, max_steps=problem.case.steps)

    def solve(rhs: Tensor) -> Tensor:
        hessian = HessianOperator(problem.net, problem.loss, [(problem.x, problem.y)], mode=mode)  # type: ignore[arg-type]
        return solver.solve(DampedOperator(hessian, problem.case.damping), rhs).value

    return ModuleCall(problem, solve)


def eager(problem: ModuleProblem) -> ModuleCall:
    """What one writes without a library for it."""
    values = problem.parameters

    def solve(rhs: Tensor) -> Tensor:
        loss = problem.loss(problem.net, (problem.x, problem.y))
        gradient = torch.autograd.grad(loss, values, create_graph=True)

        def product(v: Tensor) -> Tensor:
            parts = torch.autograd.grad(gradient, values, problem.tree(v), retain_graph=True)
            return torch.cat([part.reshape(-1) for part in parts]).add_(v, alpha=problem.case.damping)

        return textbook(product, rhs, torch.zeros_like(rhs), problem.case.steps)

    return ModuleCall(problem, solve)
