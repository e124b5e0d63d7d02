"""P2, products with one matrix of rows: who takes part and how many bytes it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from amu_fast import backends
from amu_fast.bench.cases import ProductCase
from amu_fast.bench.contender import Call, Contender, Limit, NotAvailable, Verdict
from amu_fast.bench.product_problem import L2, LOSS, Outputs, ProductProblem
from amu_fast.bench.roofline import Ceiling, Sizes, copy, gemm, reads
from amu_fast.bench.timing import clock_of

#: Bytes of X in a chunk that chunked PyTorch tries; which of them is best is found before the timing.
CHUNK_BYTES = tuple(2**power for power in (17, 18, 19, 20, 21, 22))
CHUNK_TRIES = 2
#: Seconds in which a contender must be ready.
PATIENCE = 60.0


@dataclass(frozen=True)
class ProductCall:
    """A function of the case's one set of inputs; X alone is larger than any cache."""

    function: Callable[[], Outputs]

    def __call__(self, number: int) -> Outputs:
        """All outputs of the operator."""
        return self.function()


def build(case: ProductCase, device: torch.device) -> ProductProblem:
    """Rows and vectors."""
    return ProductProblem.of(case, device)


def contenders(case: ProductCase) -> list[Contender]:
    """Ours first."""
    names = {"glm_hvp": "two GEMVs", "glm_hvp_multi": "two GEMMs"}
    return [
        Contender("amu_fast", ours, case.operator, case.dtype, ours=True, notes=f"ops.{case.operator}"),
        Contender(names.get(case.operator, "eager PyTorch"), eager, case.operator, case.dtype),
        Contender("chunked PyTorch", chunked, case.operator, case.dtype, notes="chunk size tuned"),
        Contender("torch.compile", compiled, case.operator, case.dtype),
    ]


def ours(problem: ProductProblem) -> ProductCall:
    """The operator; its implementation is in the record's provenance."""
    case, x = problem.case, problem.x
    operator: Any = getattr(torch.ops.amu_fast, case.operator, None)
    if operator is None:
        raise NotAvailable("not built", f"this version has no operator {case.operator}")
    c, v, y, t, w, u = (
        part.contiguous() for part in (problem.c, problem.v, problem.y, problem.t, problem.w, problem.u)
    )
    if case.operator in ("glm_hvp", "glm_hvp_multi"):
        return ProductCall(lambda: (operator(x, c, v, L2, False),))
    if case.operator == "glm_gradient_curvature":
        return ProductCall(lambda: tuple(operator(x, y, t, w, LOSS, L2, 1.0, False)))
    return ProductCall(lambda: (operator(x, y, t, w, u, LOSS, 1.0, False),))


def eager(problem: ProductProblem) -> ProductCall:
    """The formula as it stands."""
    return ProductCall(lambda: _whole(problem))


def chunked(problem: ProductProblem) -> ProductCall:
    """A loop over chunks of rows that stay in the cache between the passes."""
    row_bytes = problem.case.columns * problem.x.element_size()
    sizes = sorted({max(1, size // row_bytes) for size in CHUNK_BYTES})
    clock = clock_of(problem.x.device)
    dtype = problem.x.dtype

    def seconds(size: int) -> float:
        return min(clock(partial(problem.chunked, dtype, size)) for _ in range(CHUNK_TRIES))

    best = min(sizes, key=seconds)
    return ProductCall(partial(problem.chunked, dtype, best))


def compiled(problem: ProductProblem) -> ProductCall:
    """`torch.compile` of the formula."""
    function = torch.compile(partial(_whole, problem), dynamic=False)
    return ProductCall(function)


def _whole(problem: ProductProblem) -> Outputs:
    dtype = problem.x.dtype
    return problem.finish(problem.compute(problem.x, slice(None), dtype), dtype)


def check(problem: ProductProblem, call: Call) -> Verdict:
    """Against float64, at most twice the error of PyTorch in the same precision."""
    return problem.judge(call(0))


def units(problem: ProductProblem) -> tuple[int, str]:
    """Times are per product."""
    return 1, "call"


def limit(problem: ProductProblem) -> Limit:
    """X once (twice where the result has its size); 4 n d operations and more."""
    case = problem.case
    entries = case.rows * case.columns
    times = 2 if case.operator == "glm_mixed_vjp" else 1
    work = {"glm_hvp_multi": 4 * case.right_sides, "glm_gradient_curvature": 6, "glm_mixed_vjp": 6}
    return Limit(
        float(times * entries * problem.x.element_size()), float(work.get(case.operator, 4) * entries), case.dtype
    )


def ceilings(problem: ProductProblem, sizes: Sizes) -> Mapping[str, Ceiling]:
    """Reading the case's own X; where the result has X's size, a copy."""
    device, dtype = problem.x.device, problem.case.dtype
    found = {**reads(sizes, device, problem.x), f"gemm {dtype}": gemm(dtype, sizes, device)}
    if problem.case.operator == "glm_mixed_vjp":
        found["copy"] = copy(sizes, device)
    return found


def implementation(operator: str, device: str) -> str:
    """C++, CUDA, Triton or PyTorch reference."""
    rows = [r for r in backends.table() if r.operator.endswith(f"::{operator}") and r.device == device.upper()]
    return rows[0].implementation if rows else ""
