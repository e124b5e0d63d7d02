"""Operator C, k products y_j = X~^T (c_j o (X~ v_j)) + l2 v_j that share X: equation (4).

Up to 16 right-hand sides and 1024 columns: groups of four, each as `glm_hvp` does one; programs of the same rows run
side by side and find them in the cache. Beyond: two matrix products on tiles in full float32 precision, R = c o (X~ V)
and Y = X~^T R, which read X twice for all k.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from amu_fast.kernels import partials
from amu_fast.kernels.configurations import WIDEST, configuration, cut, tile_width
from amu_fast.kernels.layout import Rows, flatten, rows

_GROUP = tl.constexpr(4)
_MOST_GROUPED = 16
# Wider tiles would leave four sums no room in the registers.
_WIDEST_GROUPED = 1024
# Columns of x and right-hand sides of a tile of the two matrix products.
_COLUMNS = 32
_MOST_SIDES = 32


@triton.jit
def _side(tile, c, v, row, cols, side, n, d, k, c_row, c_side, INTERCEPT: tl.constexpr):
    """X~^T (c_j o (X~ v_j)) of a tile of rows: its d columns and the intercept's entry."""
    there = side < k
    weights = tl.load(v + cols * k + side, mask=(cols < d) & there, other=0.0)
    margin = tl.sum(tile * weights[None, :], 1)
    if INTERCEPT:
        margin += tl.load(v + d.to(tl.int64) * k + side, mask=there, other=0.0)
    inside = (row < n) & there
    r = tl.load(c + row * c_row + side * c_side, mask=inside, other=0.0) * margin
    # Rows past the end carry the bias and the weight 0, which an infinite bias would turn into NaN.
    r = tl.where(inside, r, 0.0)
    return tl.sum(tile * r[:, None], 0).to(tl.float64), tl.sum(r, 0).to(tl.float64)


@triton.jit
def _store_side(out, total, total_bias, cols, side, d, k, INTERCEPT: tl.constexpr):
    tl.store(out + cols * k + side, total, mask=(cols < d) & (side < k))
    if INTERCEPT:
        tl.store(out + d.to(tl.int64) * k + side, total_bias, mask=side < k)


@triton.jit
def _grouped(
    x,
    c,
    v,
    out,
    n,
    d,
    k,
    loaded,
    x_batch,
    x_row,
    c_batch,
    c_row,
    c_side,
    v_batch,
    parts,
    tiles,
    groups,
    INTERCEPT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STAGES: tl.constexpr,
):
    pid = tl.program_id(0)
    side = (pid % groups) * _GROUP
    part = (pid // groups) % parts
    problem = (pid // (groups * parts)).to(tl.int64)
    cols = tl.arange(0, WIDTH).to(tl.int64)
    v += problem * v_batch
    c += problem * c_batch
    total0 = tl.zeros([WIDTH], tl.float64)
    total1 = tl.zeros([WIDTH], tl.float64)
    total2 = tl.zeros([WIDTH], tl.float64)
    total3 = tl.zeros([WIDTH], tl.float64)
    bias0 = tl.zeros([], tl.float64)
    bias1 = tl.zeros([], tl.float64)
    bias2 = tl.zeros([], tl.float64)
    bias3 = tl.zeros([], tl.float64)
    for i in tl.range(0, tiles, num_stages=STAGES):
        row = (part * tiles + i).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        mask = (row < n)[:, None] & (cols < loaded)[None, :]
        tile = tl.load(x + problem * x_batch + row[:, None] * x_row + cols[None, :], mask=mask, other=0.0)
        tile = tl.where((cols < d)[None, :], tile.to(tl.float32), 0.0)
        new, bias = _side(tile, c, v, row, cols, side, n, d, k, c_row, c_side, INTERCEPT)
        total0 += new
        bias0 += bias
        new, bias = _side(tile, c, v, row, cols, side + 1, n, d, k, c_row, c_side, INTERCEPT)
        total1 += new
        bias1 += bias
        new, bias = _side(tile, c, v, row, cols, side + 2, n, d, k, c_row, c_side, INTERCEPT)
        total2 += new
        bias2 += bias
        new, bias = _side(tile, c, v, row, cols, side + 3, n, d, k, c_row, c_side, INTERCEPT)
        total3 += new
        bias3 += bias
    first = out + (problem * parts + part) * (d + INTERCEPT) * k
    _store_side(first, total0, bias0, cols, side, d, k, INTERCEPT)
    _store_side(first, total1, bias1, cols, side + 1, d, k, INTERCEPT)
    _store_side(first, total2, bias2, cols, side + 2, d, k, INTERCEPT)
    _store_side(first, total3, bias3, cols, side + 3, d, k, INTERCEPT)


@triton.jit
def _weighted_product(
    x,
    c,
    v,
    r,
    n,
    d,
    k,
    loaded,
    x_batch,
    x_row,
    c_batch,
    c_row,
    c_side,
    v_batch,
    row_tiles,
    side_tiles,
    INTERCEPT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    SIDES: tl.constexpr,
):
    """R = c o (X~ V): (B, n, k)."""
    pid = tl.program_id(0)
    side = (pid % side_tiles) * SIDES + tl.arange(0, SIDES)
    row = ((pid // side_tiles) % row_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    problem = (pid // (side_tiles * row_tiles)).to(tl.int64)
    v += problem * v_batch
    total = tl.zeros([ROWS, SIDES], tl.float64)
    for i in range(tl.cdiv(d, WIDTH)):
        cols = (i * WIDTH + tl.arange(0, WIDTH)).to(tl.int64)
        mask = (row < n)[:, None] & (cols < loaded)[None, :]
        tile = tl.load(x + problem * x_batch + row[:, None] * x_row + cols[None, :], mask=mask, other=0.0)
        tile = tl.where((cols < d)[None, :], tile.to(tl.float32), 0.0)
        mask = (cols < d)[:, None] & (side < k)[None, :]
        weights = tl.load(v + cols[:, None] * k + side[None, :], mask=mask, other=0.0)
        total += tl.dot(tile, weights, input_precision="ieee").to(tl.float64)
    if INTERCEPT:
        total += tl.load(v + d.to(tl.int64) * k + side, mask=side < k, other=0.0)[None, :]
    mask = (row < n)[:, None] & (side < k)[None, :]
    share = tl.load(c + problem * c_batch + row[:, None] * c_row + side[None, :] * c_side, mask=mask, other=0.0)
    tl.store(r + (problem * n + row)[:, None] * k + side[None, :], (share * total).to(tl.float32), mask=mask)


@triton.jit
def _transposed_product(
    x,
    r,
    out,
    n,
    d,
    k,
    loaded,
    x_batch,
    x_row,
    parts,
    tiles,
    blocks,
    side_tiles,
    INTERCEPT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    SIDES: tl.constexpr,
):
    """Partial sums (B, parts, p, k) of Y = X~^T R."""
    pid = tl.program_id(0)
    side = (pid % side_tiles) * SIDES + tl.arange(0, SIDES)
    block = (pid // side_tiles) % blocks
    part = (pid // (side_tiles * blocks)) % parts
    problem = (pid // (side_tiles * blocks * parts)).to(tl.int64)
    cols = (block * WIDTH + tl.arange(0, WIDTH)).to(tl.int64)
    total = tl.zeros([WIDTH, SIDES], tl.float64)
    total_bias = tl.zeros([SIDES], tl.float64)
    for i in range(tiles):
        row = (part * tiles + i).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        mask = (cols < loaded)[:, None] & (row < n)[None, :]
        tile = tl.load(x + problem * x_batch + cols[:, None] + row[None, :] * x_row, mask=mask, other=0.0)
        tile = tl.where((cols < d)[:, None], tile.to(tl.float32), 0.0)
        mask = (row < n)[:, None] & (side < k)[None, :]
        weights = tl.load(r + (problem * n + row)[:, None] * k + side[None, :], mask=mask, other=0.0)
        total += tl.dot(tile, weights, input_precision="ieee").to(tl.float64)
        total_bias += tl.sum(weights, 0)
    first = out + (problem * parts + part) * (d + INTERCEPT) * k
    tl.store(first + cols[:, None] * k + side[None, :], total, mask=(cols < d)[:, None] & (side < k)[None, :])
    if INTERCEPT:
        tl.store(first + d.to(tl.int64) * k + side, total_bias, mask=(side < k) & (block == 0))


def glm_hvp_multi(x: Tensor, c: Tensor, v: Tensor, l2: float, intercept: bool) -> Tensor:
    """y (*b, p, k) in float32 of x (*b, n, d) in float32 or bfloat16, c (*b, n, k) or (*b, n, 1), v (*b, p, k)."""
    batch = torch.broadcast_shapes(x.shape[:-2], c.shape[:-2], v.shape[:-2])
    n, d = x.shape[-2:]
    p, k = v.shape[-2:]
    if n == 0 or p == 0 or k == 0 or batch.numel() == 0:
        return (l2 * v).expand(*batch, p, k).contiguous()
    # Strides of c are passed on, zero included: one weighting may serve all right-hand sides.
    c = c.expand(*batch, n, k).reshape(batch.numel(), n, k)
    v = flatten(v, batch, 2).contiguous()
    by_dot = k > _MOST_GROUPED or d > _WIDEST_GROUPED
    sums = (_sums_by_dot if by_dot else _sums_by_group)(rows(x, batch), c, v, intercept)
    y = torch.empty((*batch, p, k), dtype=torch.float32, device=v.device)
    partials.add_damping(sums.flatten(2), v.flatten(1), l2, y.view(batch.numel(), p * k))
    return y


def _sums_by_group(x: Rows, c: Tensor, v: Tensor, intercept: bool) -> Tensor:
    problems, n, k = c.shape
    width, groups = tile_width(x.d), triton.cdiv(k, _GROUP.value)
    row = configuration("glm_hvp_multi", x.data, width)
    parts, tiles = cut(n, row.rows, problems, row.programs)
    sums = torch.empty(problems, parts, v.shape[1], k, dtype=torch.float64, device=v.device)
    sizes = (n, x.d, k, x.loaded, *x.strides, *c.stride(), v.stride(0), parts, tiles, groups)
    shape = {"ROWS": row.rows, "WIDTH": width, "STAGES": row.stages, "num_warps": row.warps}
    grid = (problems * parts * groups,)
    _grouped[grid](x.data, c, v, sums, *sizes, INTERCEPT=intercept, **shape, enable_fp_fusion=True)
    return sums


def _sums_by_dot(x: Rows, c: Tensor, v: Tensor, intercept: bool) -> Tensor:
    problems, n, k = c.shape
    sides = tile_width(k, _MOST_SIDES)
    side_tiles, blocks = triton.cdiv(k, sides), triton.cdiv(max(x.d, 1), _COLUMNS)
    row = configuration("glm_hvp_multi_dot", x.data, WIDEST)
    row_tiles = triton.cdiv(n, row.rows)
    parts, tiles = cut(n, row.rows, problems * blocks * side_tiles, row.programs)
    r = torch.empty(problems, n, k, dtype=torch.float32, device=v.device)
    sums = torch.empty(problems, parts, v.shape[1], k, dtype=torch.float64, device=v.device)
    shape = {"ROWS": row.rows, "WIDTH": _COLUMNS, "SIDES": sides, "num_warps": row.warps, "enable_fp_fusion": True}
    sizes = (n, x.d, k, x.loaded, *x.strides)
    grid = (problems * row_tiles * side_tiles,)
    strides = (*c.stride(), v.stride(0), row_tiles, side_tiles)
    _weighted_product[grid](x.data, c, v, r, *sizes, *strides, INTERCEPT=intercept, **shape)
    grid = (problems * parts * blocks * side_tiles,)
    _transposed_product[grid](x.data, r, sums, *sizes, parts, tiles, blocks, side_tiles, INTERCEPT=intercept, **shape)
    return sums
