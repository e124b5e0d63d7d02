"""The second half of every sum over rows: partial sums [problems, parts, columns] in double, added in a fixed order."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

PARTS = tl.constexpr(64)
COLUMNS = tl.constexpr(32)


@triton.jit
def sum_parts(partials, first, parts, stride, cols, limit):
    """Sum over parts of columns `cols` (those below `limit`) of the partials that start at element `first`."""
    total = tl.zeros([COLUMNS], tl.float64)
    for i in range(tl.cdiv(parts, PARTS)):
        part = i * PARTS + tl.arange(0, PARTS)
        mask = (part < parts)[:, None] & (cols < limit)[None, :]
        offsets = first + part.to(tl.int64)[:, None] * stride + cols[None, :]
        total += tl.sum(tl.load(partials + offsets, mask=mask, other=0.0), 0)
    return total


@triton.jit
def _add_damping(partials, v, out, parts, p, l2, v_batch, blocks):
    pid = tl.program_id(0)
    problem = (pid // blocks).to(tl.int64)
    cols = (pid % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    total = sum_parts(partials, problem * parts * p, parts, p, cols, p)
    entry = tl.load(v + problem * v_batch + cols, mask=cols < p, other=0.0).to(tl.float64)
    tl.store(out + problem * p + cols, (total + l2 * entry).to(tl.float32), mask=cols < p)


def add_damping(partials: Tensor, v: Tensor, l2: float, out: Tensor) -> None:
    """out (B, p) = sum over parts of partials (B, parts, p) + l2 v, v (B, p) with unit stride in its rows."""
    problems, parts, p = partials.shape
    blocks = triton.cdiv(p, COLUMNS.value)
    grid = (problems * blocks,)
    _add_damping[grid](partials, v, out, parts, p, l2, v.stride(0), blocks, num_warps=4, enable_fp_fusion=True)
