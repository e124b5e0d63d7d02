"""Many small symmetric positive definite systems at once.

    A = L D L^T        u = L^-T D^-1 L^-1 b        float32: u += A^-1 (b - A u), residual in float64

The pivots D are those of Cholesky's factorisation, squared: the matrix is positive definite iff all are > 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.ops.gradients import Args, Grads
from amu_fast.ops.registry import define
from amu_fast.ops.vectors import leading


def spd_solve(matrix: Tensor, rhs: Tensor) -> tuple[Tensor, Tensor]:
    """Solve A u = b for every matrix of a batch, p^3/3 operations each.

    The gradient is that of the function as it reads: with v = A^-1 g, db = v and dA is in the lower form,
    dA_ij = -(v_i u_j + v_j u_i) below the diagonal, -v_i u_i on it, zero above. Differentiable once.

    Args:
        matrix: A, (*b, p, p), float32 or float64; only its lower triangle is read.
        rhs: b, (*b, p) of the same dtype; batch dimensions broadcast (a matrix is factored once per right-hand
            side: for many of them use `amu_fast.linalg.Cholesky`).

    Returns:
        solution u, (*b, p), NaN where A is not positive definite, and info, (*b) int32: 0, or the 1-based order of
        the first pivot that is not > 0 (NaN counts).

    Raises:
        DataError: shapes or dtypes do not fit.

    Accuracy:
        float64: relative error about k 1e-16, k the condition number. float32: one step of iterative refinement with
        the residual in float64, so the error is (k 1e-7)^2 down to the rounding of the answer: below 1e-5 up to
        k = 1e4. Bitwise equal for any number of threads and any company in the batch on the CPU with the C++
        extension.

    >>> solution, info = spd_solve(torch.tensor([[4.0, 0.0], [2.0, 2.0]]), torch.tensor([2.0, 2.0]))
    >>> solution.tolist(), int(info)
    ([0.0, 1.0], 0)
    """
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise DataError(f"matrix must have shape (*b, p, p), got {tuple(matrix.shape)}; pass square matrices")
    if rhs.ndim < 1 or rhs.shape[-1] != matrix.shape[-1]:
        raise DataError(f"rhs needs one entry per row, got rhs {tuple(rhs.shape)} and matrix {tuple(matrix.shape)}")
    if matrix.dtype not in (torch.float32, torch.float64) or rhs.dtype != matrix.dtype:
        raise DataError(f"matrix and rhs must both be float32 or both float64, got {matrix.dtype} and {rhs.dtype}")
    return SPD_SOLVE(matrix, rhs)


def _reference(matrix: Tensor, rhs: Tensor) -> tuple[Tensor, Tensor]:
    batch = torch.broadcast_shapes(matrix.shape[:-2], rhs.shape[:-1])
    b = rhs.expand(*batch, rhs.shape[-1]).unsqueeze(-1)
    lower, info = torch.linalg.cholesky_ex(matrix)
    # Not every LAPACK counts a NaN pivot as a failure.
    lost = lower.diagonal(dim1=-2, dim2=-1).isnan()
    info = torch.where((info == 0) & lost.any(-1), lost.int().argmax(-1) + 1 if lost.shape[-1] else 0, info).int()
    lower = lower.expand(*batch, *lower.shape[-2:])
    solution = torch.cholesky_solve(b, lower)
    if matrix.dtype == torch.float32:
        wide = matrix.double().tril()
        symmetric = wide + wide.tril(-1).mT
        residual = b.double() - symmetric @ solution.double()
        solution = (solution.double() + torch.cholesky_solve(residual.float(), lower).double()).float()
    info = info.expand(batch).contiguous()
    return torch.where(info[..., None] != 0, math.nan, solution.squeeze(-1)).contiguous(), info


def _fake(matrix: Tensor, rhs: Tensor) -> tuple[Tensor, Tensor]:
    batch = torch.broadcast_shapes(matrix.shape[:-2], rhs.shape[:-1])
    return rhs.new_empty((*batch, rhs.shape[-1])), rhs.new_empty(batch, dtype=torch.int32)


def _gradient(inputs: Args, saved: Args, cotangents: Grads, needs: tuple[bool, ...]) -> Grads:
    (matrix, rhs), (solution,), (g, _) = inputs, saved, cotangents
    v, _ = SPD_SOLVE.bare(matrix, g)
    dmatrix = None
    if needs[0]:
        outer = v[..., :, None] * solution[..., None, :]
        both = outer.tril() + outer.mT.tril(-1)
        dmatrix = -both.sum_to_size(matrix.shape)
    return dmatrix, v.sum_to_size(rhs.shape) if needs[1] else None


def _vmap(info: Any, in_dims: tuple[int | None, ...], matrix: Tensor, rhs: Tensor) -> tuple[Any, tuple[int, int]]:
    return SPD_SOLVE.bare(*leading(in_dims, (matrix, rhs), (2, 1))), (0, 0)


SPD_SOLVE = define("spd_solve", reference=_reference, fake=_fake, gradient=_gradient, vmap=_vmap, saved_outputs=(0,))
