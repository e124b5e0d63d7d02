"""Operator B, y = X~^T (c o (X~ v)) + l2 v, in one pass over X: equation (4).

A program holds a tile of whole rows, takes its product with v, weights it and adds the rows up, so that each row is
read once; partial sums [problems, parts, p] are added by `partials`. Rows wider than a tile are read twice: once for
X~ v, once in blocks of columns. The one-pass product is that of Ashari et al., PPoPP 2015.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from amu_fast.kernels import layout, partials
from amu_fast.kernels.configurations import WIDEST, configuration, cut, tile_width
from amu_fast.kernels.margins import margins

# Columns of a tile where rows are wider than one.
_BLOCK = 512


@triton.jit
def _products(
    x,
    c,
    v,
    z,
    out,
    n,
    d,
    loaded,
    x_batch,
    x_row,
    c_batch,
    v_batch,
    parts,
    tiles,
    blocks,
    INTERCEPT: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STAGES: tl.constexpr,
):
    pid = tl.program_id(0)
    block = pid % blocks
    part = (pid // blocks) % parts
    problem = (pid // (blocks * parts)).to(tl.int64)
    cols = block * WIDTH + tl.arange(0, WIDTH)
    weights = tl.load(v + problem * v_batch + cols, mask=cols < d, other=0.0)
    total = tl.zeros([WIDTH], tl.float64)
    bias = 0.0
    total_bias = tl.zeros([], tl.float64)
    if INTERCEPT:
        bias = tl.load(v + problem * v_batch + d)
    for i in tl.range(0, tiles, num_stages=STAGES):
        row = (part * tiles + i).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        mask = (row < n)[:, None] & (cols < loaded)[None, :]
        tile = tl.load(x + problem * x_batch + row[:, None] * x_row + cols[None, :], mask=mask, other=0.0)
        tile = tl.where((cols < d)[None, :], tile.to(tl.float32), 0.0)
        if WIDE:
            margin = tl.load(z + problem * n + row, mask=row < n, other=0.0)
        else:
            margin = tl.sum(tile * weights[None, :], 1) + bias
        r = tl.load(c + problem * c_batch + row, mask=row < n, other=0.0) * margin
        # Rows past the end carry the bias and the weight 0, which an infinite bias would turn into NaN.
        r = tl.where(row < n, r, 0.0)
        total += tl.sum(tile * r[:, None], 0).to(tl.float64)
        if INTERCEPT:
            total_bias += tl.sum(r, 0).to(tl.float64)
    p = d + INTERCEPT
    first = out + (problem * parts + part) * p
    tl.store(first + cols, total, mask=cols < d)
    if INTERCEPT:
        tl.store(first + d, total_bias, mask=block == 0)


def glm_hvp(x: Tensor, c: Tensor, v: Tensor, l2: float, intercept: bool) -> Tensor:
    """y (*b, p) in float32 of x (*b, n, d) in float32 or bfloat16, c (*b, n), v (*b, p)."""
    batch = torch.broadcast_shapes(x.shape[:-2], c.shape[:-1], v.shape[:-1])
    n, d = x.shape[-2:]
    p, problems = d + intercept, batch.numel()
    if n == 0 or p == 0 or problems == 0:
        return (l2 * v).expand(*batch, p).contiguous()
    x, c, v = layout.rows(x, batch), layout.flatten(c, batch, 1), layout.flatten(v, batch, 1)
    wide = d > WIDEST
    width = _BLOCK if wide else tile_width(d)
    row, blocks = configuration("glm_hvp", x.data, width), triton.cdiv(max(d, 1), width)
    parts, tiles = cut(n, row.rows, problems * blocks, row.programs)
    sums = torch.empty(problems, parts, p, dtype=torch.float64, device=v.device)
    _products[(problems * parts * blocks,)](
        x.data,
        c,
        v,
        margins(x, v, intercept) if wide else c,
        sums,
        n,
        d,
        x.loaded,
        *x.strides,
        c.stride(0),
        v.stride(0),
        parts,
        tiles,
        blocks,
        INTERCEPT=intercept,
        WIDE=wide,
        ROWS=row.rows,
        WIDTH=width,
        STAGES=row.stages,
        num_warps=row.warps,
        enable_fp_fusion=True,
    )
    y = torch.empty((*batch, p), dtype=torch.float32, device=v.device)
    partials.add_damping(sums, v, l2, y.view(problems, p))
    return y
