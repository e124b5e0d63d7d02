"""Hessian-vector product of a generalised linear model, the one operator that every follower's solver repeats.

    y = X~^T (c o (X~ v)) + l2 v,   X~ = [x, 1] with an intercept, else x                       equation (4)

With the row weights c = l''(m) / n this is the Hessian of a follower's objective at the margins m. The operator is
linear in v and in c and symmetric in v, so its gradient needs no new kernel:

    dv = H g,   dc = (X~ v) o (X~ g),   dx = (c o X~ v) g^T + (c o X~ g) v^T   (last column dropped)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.ops.registry import Args, Grads, define


def glm_hvp(x: Tensor, c: Tensor, v: Tensor, l2: float, intercept: bool) -> Tensor:
    """Return y = X~^T (c o (X~ v)) + l2 v, equation (4).

    Differentiable once in `x`, `c` and `v`, under `torch.func` and `torch.compile` too; forward mode and a second
    differentiation raise.

    Args:
        x: (*b, n, d) rows, float32 or float64.
        c: (*b, n) weights of the rows.
        v: (*b, p) vectors, p = d + 1 with an intercept (its entry is the last) and d without.
        l2: weight of the identity, >= 0.
        intercept: whether a column of ones is appended to `x`.

    Returns:
        (*b, p), contiguous. The batch dimensions of the arguments broadcast.

    Raises:
        DataError: shapes or dtypes do not fit, or l2 < 0.

    Accuracy:
        Error at most twice that of two matrix-vector products in the same precision; bitwise equal for any
        number of threads on the CPU with the C++ extension.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> glm_hvp(x, torch.tensor([1.0, 0.5]), torch.tensor([1.0, 0.0, 1.0]), 0.1, intercept=True)
    tensor([ 8.1000, 12.0000,  4.1000])
    """
    _check(x, c, v, l2, intercept)
    return GLM_HVP(x, c, v, l2, intercept)


def _check(x: Tensor, c: Tensor, v: Tensor, l2: float, intercept: bool) -> None:
    if x.ndim < 2 or c.ndim < 1 or v.ndim < 1:
        shapes = f"{tuple(x.shape)}, {tuple(c.shape)}, {tuple(v.shape)}"
        raise DataError(f"x, c, v need at least 2, 1, 1 dimensions, got {shapes}")
    n, d = x.shape[-2:]
    if c.shape[-1] != n:
        raise DataError(f"c needs one entry per row of x, got c {tuple(c.shape)} and x {tuple(x.shape)}")
    if v.shape[-1] != d + intercept:
        ending = "column of x and one for the intercept" if intercept else "column of x"
        raise DataError(f"v needs one entry per {ending}, got v {tuple(v.shape)} and x {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64) or c.dtype != x.dtype or v.dtype != x.dtype:
        raise DataError(f"x, c, v must all be float32 or all float64, got {x.dtype}, {c.dtype}, {v.dtype}")
    if not l2 >= 0:
        raise DataError(f"l2 must be >= 0, got {l2}; a negative one makes the product indefinite")


def _product(x: Tensor, v: Tensor, intercept: bool) -> Tensor:
    """X~ v: (*b, n)."""
    if not intercept:
        return (x @ v.unsqueeze(-1)).squeeze(-1)
    return (x @ v[..., :-1].unsqueeze(-1)).squeeze(-1) + v[..., -1:]


def _reference(x: Tensor, c: Tensor, v: Tensor, l2: float, intercept: bool) -> Tensor:
    r = c * _product(x, v, intercept)
    y = (x.mT @ r.unsqueeze(-1)).squeeze(-1)
    if intercept:
        y = torch.cat([y, r.sum(-1, keepdim=True)], -1)
    return (y + l2 * v).contiguous()


def _fake(x: Tensor, c: Tensor, v: Tensor, l2: float, intercept: bool) -> Tensor:
    batch = torch.broadcast_shapes(x.shape[:-2], c.shape[:-1], v.shape[:-1])
    return v.new_empty((*batch, v.shape[-1]))


def _gradient(inputs: Args, saved: Args, cotangents: Grads, needs: tuple[bool, ...]) -> Grads:
    (x, c, v, l2, intercept), (g,) = inputs, cotangents
    dx = dc = dv = None
    if needs[0] or needs[1]:
        xv, xg = _product(x, v, intercept), _product(x, g, intercept)
    if needs[0]:
        left = torch.stack(torch.broadcast_tensors(c * xv, c * xg), -1)
        right = torch.stack(torch.broadcast_tensors(g, v), -2)[..., : x.shape[-1]]
        dx = (left @ right).sum_to_size(x.shape)
    if needs[1]:
        dc = (xv * xg).sum_to_size(c.shape)
    if needs[2]:
        dv = GLM_HVP.bare(x, c, g, l2, intercept).sum_to_size(v.shape)
    return dx, dc, dv, None, None


def _vmap(
    info: Any, in_dims: tuple[int | None, ...], x: Tensor, c: Tensor, v: Tensor, l2: float, intercept: bool
) -> tuple[Tensor, int]:
    """Put the mapped dimension in front of the batch dimensions, all of one rank, and let them broadcast."""
    tensors, cores = (x, c, v), (2, 1, 1)
    ranks = [t.ndim - core - (dim is not None) for t, core, dim in zip(tensors, cores, in_dims[:3], strict=True)]
    moved = []
    for t, rank, dim in zip(tensors, ranks, in_dims[:3], strict=True):
        if dim is not None:
            t = t.movedim(dim, 0)
            t = t.reshape(t.shape[:1] + (1,) * (max(ranks) - rank) + t.shape[1:])
        moved.append(t)
    return GLM_HVP.bare(*moved, l2, intercept), 0


GLM_HVP = define("glm_hvp", reference=_reference, fake=_fake, gradient=_gradient, vmap=_vmap)
