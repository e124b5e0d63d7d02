"""P5, the ill-conditioned solve: who takes part and what one pass over the rows costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from amu_fast.bench.cases import SolveCase
from amu_fast.bench.contender import Call, Contender, Limit, Verdict
from amu_fast.bench.p1 import load_peer
from amu_fast.bench.roofline import Ceiling, Sizes, gemm, reads
from amu_fast.bench.solve_problem import SolveProblem
from amu_fast.linalg import ConjugateGradient, GlmHessian, NystromPreconditioner, Solution

SOLVE = "setup + solve"
#: Seconds in which a contender must be ready.
PATIENCE = 90.0


@dataclass(frozen=True)
class SolveCall:
    """A solver of one right-hand side as a call; `judge` looks at what it returned."""

    problem: SolveProblem
    solve: Callable[[Tensor], Tensor]

    def __call__(self, number: int) -> Tensor:
        """The solution for one of the right-hand sides."""
        return self.solve(self.problem.rhs[number % len(self.problem.rhs)])


def build(case: SolveCase, device: torch.device) -> SolveProblem:
    """Rows, weights and right-hand sides."""
    return SolveProblem.of(case, device)


def contenders(case: SolveCase) -> list[Contender]:
    """Ours first. Peers in float32, as the rows are, and in float64, where rounding does not stop them."""
    float32, float64 = torch.float32, torch.float64
    rank = f"rank {case.peer_rank}"
    sketch = f"CG, Nystrom of rank {case.rank} from {case.sketch_rows} rows"

    def peer(name: str, module: str, function: str, dtype: torch.dtype = float32, notes: str = "") -> Contender:
        precision = str(dtype).removeprefix("torch.")
        label = name if dtype == float32 else f"{name}, float64"
        return Contender(label, partial(load_peer, module, function, (dtype,)), SOLVE, precision, notes=notes)

    return [
        Contender("amu_fast", nystrom, SOLVE, "float32", ours=True, notes=sketch),
        Contender("amu_fast, no preconditioner", plain, SOLVE, "float32", notes="CG"),
        *(peer("linear_cg", "linear_cg", "plain", dtype) for dtype in (float32, float64)),
        *(peer("linear_cg, pivoted Cholesky", "linear_cg", "pivoted", dtype, rank) for dtype in (float32, float64)),
        *(peer("pyDVL Nystrom + block CG", "pydvl_cg", "nystrom", dtype, rank) for dtype in (float32, float64)),
        peer("torch dense Cholesky", "dense", "cholesky", float64),
        peer("TorchOpt Neumann", "torchopt_neumann", "neumann", notes="step 1 / largest eigenvalue"),
        *(peer("scipy cg", "scipy_cg", "two_gemvs", dtype, "products by PyTorch") for dtype in (float32, float64)),
    ]


def check(problem: SolveProblem, call: Call) -> Verdict:
    """The true relative residual, in float64, of the first right-hand side."""
    return problem.judge(call(0), 0)


def units(problem: SolveProblem) -> tuple[int, str]:
    """Times are per solve."""
    return 1, "solve"


def limit(problem: SolveProblem) -> Limit:
    """The rows once per product of ours and for their norms, the sampled ones once for the sketch."""
    solution = solve_ours(problem, problem.rhs[0])
    n, d = problem.x.shape
    case, steps = problem.case, int(solution.steps)
    bytes_read = 4.0 * d * ((steps + 2) * n + case.sketch_rows)
    return Limit(bytes_read, 4.0 * d * (steps * n + case.sketch_rows * case.rank), "float32")


def ceilings(problem: SolveProblem, sizes: Sizes) -> Mapping[str, Ceiling]:
    """Reading the case's own rows."""
    return {**reads(sizes, problem.x.device, problem.x), "gemm float32": gemm("float32", sizes, problem.x.device)}


def solve_ours(problem: SolveProblem, rhs: Tensor) -> Solution:
    """Sketch, then conjugate gradients; the sketch is paid for in every call."""
    hessian = GlmHessian(problem.x, problem.c, problem.case.l2, intercept=False)
    case = problem.case
    sketch = NystromPreconditioner.from_operator(hessian, case.rank, rows=case.sketch_rows)
    return ConjugateGradient(rtol=1e-6).solve(hessian, rhs, preconditioner=sketch)


def nystrom(problem: SolveProblem) -> SolveCall:
    """With a Nystrom preconditioner."""
    return SolveCall(problem, lambda rhs: solve_ours(problem, rhs).value)


def plain(problem: SolveProblem) -> SolveCall:
    """Without."""
    hessian = GlmHessian(problem.x, problem.c, problem.case.l2, intercept=False)
    return SolveCall(problem, lambda rhs: ConjugateGradient(rtol=1e-6).solve(hessian, rhs).value)
