"""Operator F, the mixed derivative's product with u: dx_i = -[t y l'(m) u + t l''(m) <x~, u> w], equation (7).

Two products of a row with vectors, then the row of the answer: x is read once, the answer written once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from amu_fast.kernels import layout, losses
from amu_fast.kernels.configurations import configuration, tile_width

# Widest tile: wider rows are taken in blocks of columns.
_WIDEST = 1024


@triton.jit
def _mixed(
    x,
    y,
    t,
    w,
    u,
    out,
    n,
    d,
    loaded,
    loss_width,
    x_batch,
    x_row,
    y_batch,
    t_batch,
    w_batch,
    u_batch,
    row_tiles,
    LOSS: tl.constexpr,
    INTERCEPT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STAGES: tl.constexpr,
):
    pid = tl.program_id(0)
    problem = (pid // row_tiles).to(tl.int64)
    row = (pid % row_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < n
    w += problem * w_batch
    u += problem * u_batch
    xw = tl.zeros([ROWS], tl.float64)
    xu = tl.zeros([ROWS], tl.float64)
    for i in tl.range(0, tl.cdiv(d, WIDTH), num_stages=STAGES):
        cols = i * WIDTH + tl.arange(0, WIDTH)
        mask = inside[:, None] & (cols < loaded)[None, :]
        tile = tl.load(x + problem * x_batch + row[:, None] * x_row + cols[None, :], mask=mask, other=0.0)
        tile = tl.where((cols < d)[None, :], tile.to(tl.float32), 0.0)
        xw += tl.sum(tile * tl.load(w + cols, mask=cols < d, other=0.0)[None, :], 1)
        xu += tl.sum(tile * tl.load(u + cols, mask=cols < d, other=0.0)[None, :], 1)
    if INTERCEPT:
        xw += tl.load(w + d)
        xu += tl.load(u + d)
    label = tl.load(y + problem * y_batch + row, mask=inside, other=0.0)
    share = tl.load(t + problem * t_batch + row, mask=inside, other=0.0)
    m = label * xw.to(tl.float32)
    along_u = -share * label * losses.slope(m, loss_width, LOSS)
    along_w = -share * losses.curvature(m, loss_width, LOSS) * xu.to(tl.float32)
    for i in range(tl.cdiv(d, WIDTH)):
        cols = i * WIDTH + tl.arange(0, WIDTH)
        first = tl.load(u + cols, mask=cols < d, other=0.0)
        second = tl.load(w + cols, mask=cols < d, other=0.0)
        tile = along_u[:, None] * first[None, :] + along_w[:, None] * second[None, :]
        mask = inside[:, None] & (cols < d)[None, :]
        tl.store(out + (problem * n + row)[:, None] * d + cols[None, :], tile.to(out.dtype.element_ty), mask=mask)


def glm_mixed_vjp(
    x: Tensor, y: Tensor, t: Tensor, w: Tensor, u: Tensor, loss: int, width: float, intercept: bool
) -> Tensor:
    """(*b, n, d) in x's dtype, float32 or bfloat16; y, t (*b, n), w, u (*b, p) in float32."""
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-1], t.shape[:-1], w.shape[:-1], u.shape[:-1])
    n, d = x.shape[-2:]
    out = torch.empty((*batch, n, d), dtype=x.dtype, device=x.device)
    if out.numel() == 0:
        return out
    rows = layout.rows(x, batch)
    y, t, w, u = (layout.flatten(a, batch, 1) for a in (y, t, w, u))
    tile = tile_width(d, _WIDEST)
    row = configuration("glm_mixed_vjp", rows.data, tile)
    row_tiles = triton.cdiv(n, row.rows)
    _mixed[(batch.numel() * row_tiles,)](
        rows.data,
        y,
        t,
        w,
        u,
        out,
        n,
        d,
        rows.loaded,
        width,
        *rows.strides,
        y.stride(0),
        t.stride(0),
        w.stride(0),
        u.stride(0),
        row_tiles,
        LOSS=loss,
        INTERCEPT=intercept,
        ROWS=row.rows,
        WIDTH=tile,
        STAGES=row.stages,
        num_warps=row.warps,
        enable_fp_fusion=True,
    )
    return out
