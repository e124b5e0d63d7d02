"""P3, batched SPD solves: who takes part and how much work it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from amu_fast.bench.cases import SpdCase
from amu_fast.bench.contender import Call, Contender, Limit, NotAvailable, Verdict
from amu_fast.bench.p1 import load_peer
from amu_fast.bench.roofline import Ceiling, Sizes, gemm, reads
from amu_fast.bench.spd_problem import SpdProblem

SOLVE = "solve"
REFINED = "float32, residual float64"
#: Seconds in which a contender must be ready.
PATIENCE = 6.0
#: Tolerances of an iterative contender from loose to tight; on few systems it is found out which passes.
TRIED = {"float32": (1e-6, 1e-7, 1e-8), "float64": (1e-10, 1e-12, 1e-13)}
TRIAL_SYSTEMS = 32

Solver = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SpdCall:
    """A solver of a batch as a call."""

    problem: SpdProblem
    solver: Solver

    def __call__(self, number: int) -> Tensor:
        """(B, p) solutions for one of the right-hand sides."""
        return self.solver(self.problem.matrix, self.problem.rhs[number % len(self.problem.rhs)])


@dataclass(frozen=True)
class TunedCall(SpdCall):
    """An iterative solver at the loosest tolerance that passed on a few systems."""

    tolerance: float


def tuned(problem: SpdProblem, make: Callable[[float], Solver]) -> TunedCall:
    """Try tolerances on a few systems; the last one if none passes."""
    few = problem.first(TRIAL_SYSTEMS)
    for tolerance in TRIED[problem.case.dtype]:
        if few.judge(SpdCall(few, make(tolerance))(0)).passed:
            break
    return TunedCall(problem, make(tolerance), tolerance)


def build(case: SpdCase, device: torch.device) -> SpdProblem:
    """Matrices and right-hand sides."""
    return SpdProblem.of(case, device)


def contenders(case: SpdCase) -> list[Contender]:
    """Ours first; float32 systems also by way of float64 and refined: plain float32 misses 1e-5 at 1e4."""

    def peer(name: str, module: str) -> Contender:
        return Contender(name, partial(load_peer, module, "batched", ()), SOLVE, case.dtype, share=0.7)

    arithmetic = REFINED if case.dtype == "float32" else case.dtype
    found = [
        Contender("amu_fast", partial(ours, dtype=None), SOLVE, arithmetic, ours=True, notes="ops.spd_solve"),
        Contender("torch Cholesky", partial(cholesky, dtype=None), SOLVE, case.dtype, notes="cholesky_ex, solve"),
    ]
    if case.dtype == "float32":
        found += [
            Contender("amu_fast, through float64", partial(ours, dtype=torch.float64), SOLVE, "float64"),
            Contender("torch Cholesky, through float64", partial(cholesky, dtype=torch.float64), SOLVE, "float64"),
            Contender("torch Cholesky, refined", refined, SOLVE, REFINED, notes="as spd_solve does"),
        ]
    return found + [peer("linear_cg", "linear_cg"), peer("jax cg", "jax_cg"), peer("xitorch cg", "xitorch_cg")]


def ours(problem: SpdProblem, dtype: torch.dtype | None) -> SpdCall:
    """The operator; its verdict per system is not waited for."""
    if not hasattr(torch.ops.amu_fast, "spd_solve"):
        raise NotAvailable("not built", "this version has no operator spd_solve")
    operator = torch.ops.amu_fast.spd_solve
    return SpdCall(problem, lambda a, b: operator(a.to(dtype or a.dtype), b.to(dtype or b.dtype))[0])


def cholesky(problem: SpdProblem, dtype: torch.dtype | None) -> SpdCall:
    """PyTorch's batched factorisation and solve."""

    def solve(a: Tensor, b: Tensor) -> Tensor:
        lower = torch.linalg.cholesky_ex(a.to(dtype or a.dtype))[0]
        return torch.cholesky_solve(b.to(dtype or b.dtype)[..., None], lower)[..., 0]

    return SpdCall(problem, solve)


def refined(problem: SpdProblem) -> SpdCall:
    """PyTorch's float32 factor with one refinement, its residual in float64: the same arithmetic as ours."""

    def solve(a: Tensor, b: Tensor) -> Tensor:
        lower = torch.linalg.cholesky_ex(a)[0]
        x = torch.cholesky_solve(b[..., None], lower).double()
        residual = b.double()[..., None] - a.double() @ x
        return (x + torch.cholesky_solve(residual.float(), lower))[..., 0].float()

    return SpdCall(problem, solve)


def check(problem: SpdProblem, call: Call) -> Verdict:
    """Worst relative error over the batch."""
    return problem.judge(call(0))


def units(problem: SpdProblem) -> tuple[int, str]:
    """Times are per system."""
    return problem.case.batch, "system"


def limit(problem: SpdProblem) -> Limit:
    """Matrix and right-hand side in, solution out; p^3/3 per factorisation."""
    batch, p, size = problem.case.batch, problem.case.unknowns, problem.matrix.element_size()
    return Limit(float(batch * (p * p + 2 * p) * size), batch * (p**3 / 3 + 2 * p * p), problem.case.dtype)


def ceilings(problem: SpdProblem, sizes: Sizes) -> Mapping[str, Ceiling]:
    """Reading and products in the case's precision."""
    device, dtype = problem.matrix.device, problem.case.dtype
    return {**reads(sizes, device), f"gemm {dtype}": gemm(dtype, sizes, device)}
