"""Operator D: objective, gradient, curvature weights and diagonal of a follower in one pass over X, equations (3), (4).

    m = y o (X~ w)    objective = sum t l(m) + l2/2 |w|^2    gradient = X~^T (t y l'(m)) + l2 w
    c = t l''(m)      diagonal_j = sum_i c_i x~_ij^2 + l2

Partial sums of a part: p of the gradient, p of the diagonal, one of the objective.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from amu_fast.kernels import layout, losses
from amu_fast.kernels.configurations import WIDEST, configuration, cut, tile_width
from amu_fast.kernels.margins import margins
from amu_fast.kernels.partials import COLUMNS, sum_parts

# Columns of a tile where rows are wider than one; entries of w squared at a time.
_BLOCK = 512


@triton.jit
def _sums(
    x,
    y,
    t,
    w,
    z,
    c,
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
    parts,
    tiles,
    blocks,
    LOSS: tl.constexpr,
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
    weights = tl.load(w + problem * w_batch + cols, mask=cols < d, other=0.0)
    gradient = tl.zeros([WIDTH], tl.float64)
    diagonal = tl.zeros([WIDTH], tl.float64)
    objective = tl.zeros([], tl.float64)
    slopes = tl.zeros([], tl.float64)
    curvatures = tl.zeros([], tl.float64)
    bias = 0.0
    if INTERCEPT:
        bias = tl.load(w + problem * w_batch + d)
    for i in tl.range(0, tiles, num_stages=STAGES):
        row = (part * tiles + i).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = row < n
        mask = inside[:, None] & (cols < loaded)[None, :]
        tile = tl.load(x + problem * x_batch + row[:, None] * x_row + cols[None, :], mask=mask, other=0.0)
        tile = tl.where((cols < d)[None, :], tile.to(tl.float32), 0.0)
        if WIDE:
            product = tl.load(z + problem * n + row, mask=inside, other=0.0)
        else:
            product = tl.sum(tile * weights[None, :], 1) + bias
        label = tl.load(y + problem * y_batch + row, mask=inside, other=0.0)
        share = tl.load(t + problem * t_batch + row, mask=inside, other=0.0)
        m = label * product
        # Rows past the end carry the weight 0, which an infinite bias would turn into NaN.
        value = tl.where(inside, share * losses.loss(m, loss_width, LOSS), 0.0)
        r = tl.where(inside, share * label * losses.slope(m, loss_width, LOSS), 0.0)
        curve = tl.where(inside, share * losses.curvature(m, loss_width, LOSS), 0.0)
        tl.store(c + problem * n + row, curve, mask=inside & (block == 0))
        gradient += tl.sum(tile * r[:, None], 0).to(tl.float64)
        diagonal += tl.sum(tile * tile * curve[:, None], 0).to(tl.float64)
        objective += tl.sum(value, 0).to(tl.float64)
        slopes += tl.sum(r, 0).to(tl.float64)
        curvatures += tl.sum(curve, 0).to(tl.float64)
    p = d + INTERCEPT
    first = out + (problem * parts + part) * (2 * p + 1)
    tl.store(first + cols, gradient, mask=cols < d)
    tl.store(first + p + cols, diagonal, mask=cols < d)
    if INTERCEPT:
        tl.store(first + d, slopes, mask=block == 0)
        tl.store(first + p + d, curvatures, mask=block == 0)
    tl.store(first + 2 * p, objective, mask=block == 0)


@triton.jit
def _finish(sums, w, objective, gradient, diagonal, parts, p, l2, w_batch, blocks, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    problem = (pid // blocks).to(tl.int64)
    block = pid % blocks
    cols = block * COLUMNS + tl.arange(0, COLUMNS)
    width = 2 * p + 1
    first = problem * parts * width
    entry = tl.load(w + problem * w_batch + cols, mask=cols < p, other=0.0).to(tl.float64)
    slope = sum_parts(sums, first, parts, width, cols, p) + l2 * entry
    curve = sum_parts(sums, first + p, parts, width, cols, p) + l2
    tl.store(gradient + problem * p + cols, slope.to(tl.float32), mask=cols < p)
    tl.store(diagonal + problem * p + cols, curve.to(tl.float32), mask=cols < p)
    if block == 0:
        square = tl.zeros([BLOCK], tl.float64)
        for i in range(tl.cdiv(p, BLOCK)):
            index = i * BLOCK + tl.arange(0, BLOCK)
            part = tl.load(w + problem * w_batch + index, mask=index < p, other=0.0).to(tl.float64)
            square += part * part
        only = tl.arange(0, COLUMNS)
        loss = tl.sum(sum_parts(sums, first + 2 * p, parts, width, only, 1), 0)
        tl.store(objective + problem, (loss + 0.5 * l2 * tl.sum(square, 0)).to(tl.float32))


def glm_gradient_curvature(
    x: Tensor, y: Tensor, t: Tensor, w: Tensor, loss: int, l2: float, width: float, intercept: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Objective (*b), gradient (*b, p), c (*b, n), diagonal (*b, p), all float32; x in float32 or bfloat16."""
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-1], t.shape[:-1], w.shape[:-1])
    n, d = x.shape[-2:]
    p, problems = d + intercept, batch.numel()
    objective, gradient, c, diagonal = (
        torch.empty((*batch, *core), dtype=torch.float32, device=w.device) for core in ((), (p,), (n,), (p,))
    )
    if problems == 0:
        return objective, gradient, c, diagonal
    if n == 0:
        objective.copy_(l2 / 2 * w.double().square().sum(-1))
        return objective, gradient.copy_(l2 * w), c, diagonal.fill_(l2)
    rows = layout.rows(x, batch)
    y, t, w = (layout.flatten(a, batch, 1) for a in (y, t, w))
    wide = d > WIDEST
    tile = _BLOCK if wide else tile_width(d)
    row, blocks = configuration("glm_gradient_curvature", rows.data, tile), triton.cdiv(max(d, 1), tile)
    parts, tiles = cut(n, row.rows, problems * blocks, row.programs)
    sums = torch.empty(problems, parts, 2 * p + 1, dtype=torch.float64, device=w.device)
    _sums[(problems * parts * blocks,)](
        rows.data,
        y,
        t,
        w,
        margins(rows, w, intercept) if wide else w,
        c,
        sums,
        n,
        d,
        rows.loaded,
        width,
        *rows.strides,
        y.stride(0),
        t.stride(0),
        w.stride(0),
        parts,
        tiles,
        blocks,
        LOSS=loss,
        INTERCEPT=intercept,
        WIDE=wide,
        ROWS=row.rows,
        WIDTH=tile,
        STAGES=row.stages,
        num_warps=row.warps,
        enable_fp_fusion=True,
    )
    finishing = triton.cdiv(max(p, 1), COLUMNS.value)
    arguments = (sums, w, objective, gradient, diagonal, parts, p, l2, w.stride(0), finishing)
    _finish[(problems * finishing,)](*arguments, BLOCK=_BLOCK, num_warps=4, enable_fp_fusion=True)
    return objective, gradient, c, diagonal
