"""Kernels with one defect each: what finds nothing in the library must find these."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_offsets_of_32_bits(x, out, n, d, x_row, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, WIDTH)
    mask = (row < n)[:, None] & (cols < d)[None, :]
    tile = tl.load(x + row[:, None] * x_row + cols[None, :], mask=mask, other=0.0)
    tl.store(out + row, tl.sum(tile, 1), mask=row < n)


@triton.jit
def one_row_too_many(x, out, n, d, x_row, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, WIDTH)
    mask = (row <= n)[:, None] & (cols < d)[None, :]
    tile = tl.load(x + row[:, None] * x_row + cols[None, :], mask=mask, other=0.0)
    tl.store(out + row, tl.sum(tile, 1), mask=row < n)


@triton.jit
def past_the_end_of_the_answer(x, out, n, d, x_row, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, WIDTH)
    mask = (row < n)[:, None] & (cols < d)[None, :]
    tile = tl.load(x + row[:, None] * x_row + cols[None, :], mask=mask, other=0.0)
    tl.store(out + row, tl.sum(tile, 1))
