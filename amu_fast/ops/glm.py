"""Hessian-vector product of a generalised linear model, the one operator that every follower's solver repeats.

    y = X~^T (c o (X~ v)) + l2 v,   X~ = [x, 1] with an intercept, else x                       equation (4)

With the row weights c = l''(m) / n this is the Hessian of a follower's objective at the margins m. The operator is
linear in v and in c and symmetric in v, so its gradient needs no new kernel:

    dv = H g,   dc = (X~ v) o (X~ g),   dx = (c o X~ v) g^T + (c o X~ g) v^T   (last column dropped)
"""

from __future__ import annotations

import torch
from torch import Tensor

from amu_fast.ops.glm_arguments import batching_rule, check_l2, check_tensors, outer, product, transposed_product
from amu_fast.ops.gradients import Args, Grads
from amu_fast.ops.registry import define


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
    check_tensors(x, {"c": c}, {"v": v}, intercept)
    check_l2(l2)
    return GLM_HVP(x, c, v, l2, intercept)


def _reference(x: Tensor, c: Tensor, v: Tensor, l2: float, intercept: bool) -> Tensor:
    y = transposed_product(x, c * product(x, v, intercept), intercept)
    return (y + l2 * v).contiguous()


def _fake(x: Tensor, c: Tensor, v: Tensor, l2: float, intercept: bool) -> Tensor:
    batch = torch.broadcast_shapes(x.shape[:-2], c.shape[:-1], v.shape[:-1])
    return v.new_empty((*batch, v.shape[-1]))


def _gradient(inputs: Args, saved: Args, cotangents: Grads, needs: tuple[bool, ...]) -> Grads:
    (x, c, v, l2, intercept), (g,) = inputs, cotangents
    dx = dc = dv = None
    if needs[0] or needs[1]:
        xv, xg = product(x, v, intercept), product(x, g, intercept)
    if needs[0]:
        dx = outer((c * xv, c * xg), (g, v), x.shape[-1]).sum_to_size(x.shape)
    if needs[1]:
        dc = (xv * xg).sum_to_size(c.shape)
    if needs[2]:
        dv = GLM_HVP.bare(x, c, g, l2, intercept).sum_to_size(v.shape)
    return dx, dc, dv, None, None


GLM_HVP = define(
    "glm_hvp",
    reference=_reference,
    fake=_fake,
    gradient=_gradient,
    vmap=batching_rule("glm_hvp", cores=(2, 1, 1)),
)
