"""Hessian-vector products of a generalised linear model for several right-hand sides, in one pass over the rows.

    Y = X~^T (C o (X~ V)) + l2 V,   X~ = [x, 1] with an intercept, else x                       equation (4)

Column j is `glm_hvp(x, c[..., j], v[..., j])`: several right-hand sides of one Hessian (C has one column), or the
Hessians of several fold weightings of the same rows (C has one column per right-hand side). The gradients are

    dV = H G,   dC = (X~ V) o (X~ G),   dx = (C o X~ V) G^T + (C o X~ G) V^T   (last column dropped)
"""

from __future__ import annotations

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.ops.glm_arguments import (
    batching_rule,
    check_l2,
    check_tensors,
    product_columns,
    transposed_product_columns,
)
from amu_fast.ops.gradients import Args, Grads
from amu_fast.ops.registry import define


def glm_hvp_multi(x: Tensor, c: Tensor, v: Tensor, l2: float, intercept: bool) -> Tensor:
    """Return Y = X~^T (C o (X~ V)) + l2 V, equation (4) for every column.

    Differentiable once in `x`, `c` and `v`, under `torch.func` and `torch.compile` too; forward mode and a second
    differentiation raise.

    Args:
        x: (*b, n, d) rows, float32 or float64.
        c: (*b, n, k) weights of the rows, one column per right-hand side, or (*b, n, 1), shared by all.
        v: (*b, p, k) vectors, p = d + 1 with an intercept (its entry is the last) and d without.
        l2: weight of the identity, >= 0.
        intercept: whether a column of ones is appended to `x`.

    Returns:
        (*b, p, k), contiguous. The batch dimensions of the arguments broadcast.

    Raises:
        DataError: shapes or dtypes do not fit, or l2 < 0.

    Accuracy:
        Error at most twice that of two matrix products in the same precision; bitwise equal for any number of
        threads on the CPU with the C++ extension.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> glm_hvp_multi(x, torch.tensor([[1.0], [0.5]]), torch.eye(2), 0.1, intercept=False)
    tensor([[ 5.6000,  8.0000],
            [ 8.0000, 12.1000]])
    """
    check_tensors(x, {"c": c}, {"v": v}, intercept, trailing=1)
    if c.shape[-1] not in (1, v.shape[-1]):
        raise DataError(
            f"c needs one column or as many as v, got c {tuple(c.shape)} and v {tuple(v.shape)}; "
            "pass one weight per row and right-hand side, or (*b, n, 1)"
        )
    check_l2(l2)
    return GLM_HVP_MULTI(x, c, v, l2, intercept)


def _reference(x: Tensor, c: Tensor, v: Tensor, l2: float, intercept: bool) -> Tensor:
    y = transposed_product_columns(x, c * product_columns(x, v, intercept), intercept)
    return (y + l2 * v).contiguous()


def _fake(x: Tensor, c: Tensor, v: Tensor, l2: float, intercept: bool) -> Tensor:
    batch = torch.broadcast_shapes(x.shape[:-2], c.shape[:-2], v.shape[:-2])
    return v.new_empty((*batch, *v.shape[-2:]))


def _gradient(inputs: Args, saved: Args, cotangents: Grads, needs: tuple[bool, ...]) -> Grads:
    (x, c, v, l2, intercept), (g,) = inputs, cotangents
    dx = dc = dv = None
    if needs[0] or needs[1]:
        xv, xg = product_columns(x, v, intercept), product_columns(x, g, intercept)
    if needs[0]:
        d = x.shape[-1]
        dx = ((c * xv) @ g[..., :d, :].mT + (c * xg) @ v[..., :d, :].mT).sum_to_size(x.shape)
    if needs[1]:
        dc = (xv * xg).sum_to_size(c.shape)
    if needs[2]:
        dv = GLM_HVP_MULTI.bare(x, c, g, l2, intercept).sum_to_size(v.shape)
    return dx, dc, dv, None, None


GLM_HVP_MULTI = define(
    "glm_hvp_multi",
    reference=_reference,
    fake=_fake,
    gradient=_gradient,
    vmap=batching_rule("glm_hvp_multi", cores=(2, 2, 2)),
)
