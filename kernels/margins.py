"""z = X~ v row by row, the first half of products with rows too wide for one tile."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from amu_fast.kernels.configurations import configuration
from amu_fast.kernels.layout import Rows

# Columns of a tile.
_WIDTH = 1024


@triton.jit
def _margins(
    x,
    v,
    z,
    n,
    d,
    loaded,
    x_batch,
    x_row,
    v_batch,
    row_tiles,
    INTERCEPT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STAGES: tl.constexpr,
):
    pid = tl.program_id(0)
    problem = (pid // row_tiles).to(tl.int64)
    row = (pid % row_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros([ROWS], tl.float64)
    for i in tl.range(0, tl.cdiv(d, WIDTH), num_stages=STAGES):
        cols = i * WIDTH + tl.arange(0, WIDTH)
        mask = (row < n)[:, None] & (cols < loaded)[None, :]
        tile = tl.load(x + problem * x_batch + row[:, None] * x_row + cols[None, :], mask=mask, other=0.0)
        tile = tl.where((cols < d)[None, :], tile.to(tl.float32), 0.0)
        weights = tl.load(v + problem * v_batch + cols, mask=cols < d, other=0.0)
        total += tl.sum(tile * weights[None, :], 1)
    if INTERCEPT:
        total += tl.load(v + problem * v_batch + d)
    tl.store(z + problem * n + row, total.to(tl.float32), mask=row < n)


def margins(x: Rows, v: Tensor, intercept: bool) -> Tensor:
    """X~ v (B, n) in float32 of rows x (B, n, d) and v (B, p) with unit stride in its rows."""
    problems, n, _ = x.data.shape
    z = torch.empty(problems, n, dtype=torch.float32, device=v.device)
    row = configuration("margins", x.data, _WIDTH)
    tiles = triton.cdiv(n, row.rows)
    _margins[(problems * tiles,)](
        x.data,
        v,
        z,
        n,
        x.d,
        x.loaded,
        *x.strides,
        v.stride(0),
        tiles,
        INTERCEPT=intercept,
        ROWS=row.rows,
        WIDTH=_WIDTH,
        STAGES=row.stages,
        num_warps=row.warps,
        enable_fp_fusion=True,
    )
    return z
