"""A follower's objective, its gradient, the rows' curvatures and the Hessian's diagonal, in one pass over the rows.

    m = y o (X~ w),   X~ = [x, 1] with an intercept, else x
    objective = sum_i t_i l(m_i) + (l2/2) |w|^2                                                      equation (2)
    gradient  = X~^T (t o y o l'(m)) + l2 w                                                          equation (3)
    c         = t o l''(m),   diagonal_j = sum_i c_i x~_ij^2 + l2                                    equation (4)

With t = 1/n these are the quantities of one Newton step: where it stands, where down is, the weights of
`glm_hvp` and a Jacobi preconditioner.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amu_fast.errors import BackendError
from amu_fast.ops import losses
from amu_fast.ops.glm_arguments import (
    batching_rule,
    check_l2,
    check_loss,
    check_tensors,
    outer,
    product,
    transposed_product,
)
from amu_fast.ops.gradients import Args, Grads
from amu_fast.ops.registry import define

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


def glm_gradient_curvature(
    x: Tensor, y: Tensor, t: Tensor, w: Tensor, loss: int, l2: float, width: float, intercept: bool
) -> Outputs:
    """Return (objective, gradient, c, diagonal) at `w`, equations (2) to (4).

    Differentiable once in `x`, `t` and `w` by every output, under `torch.func` and `torch.compile` too; forward
    mode, a second differentiation and a gradient of the labels raise.

    Args:
        x: (*b, n, d) rows, float32 or float64.
        y: (*b, n) labels, +1 or -1 (trusted: checking them would make the device wait).
        t: (*b, n) weights of the rows, >= 0; 1/n each for equation (2).
        w: (*b, p) parameters, p = d + 1 with an intercept (its entry is the last) and d without.
        loss: a kind of `amu_fast.ops.losses`.
        l2: weight of the regulariser, >= 0.
        width: width of the Huberised hinge's rounded part, > 0; the other losses ignore it.
        intercept: whether a column of ones is appended to `x`.

    Returns:
        objective (*b), gradient (*b, p), c (*b, n) and diagonal (*b, p), contiguous. The batch dimensions of the
        arguments broadcast.

    Raises:
        DataError: shapes or dtypes do not fit, `loss` is unknown, or l2 or width is out of range.

    Accuracy:
        Error at most twice that of the plain formulas in the same precision; bitwise equal for any number of
        threads on the CPU with the C++ extension.

    >>> x, y = torch.tensor([[1.0], [-2.0]]), torch.tensor([1.0, -1.0])
    >>> w = torch.tensor([0.25])
    >>> glm_gradient_curvature(x, y, torch.full((2,), 0.5), w, losses.SQUARED_HINGE, 0.5, 1.0, intercept=False)
    (tensor(0.4219), tensor([-1.6250]), tensor([1., 1.]), tensor([5.5000]))
    """
    check_tensors(x, {"y": y, "t": t}, {"w": w}, intercept)
    check_loss(loss, width)
    check_l2(l2)
    return GLM_GRADIENT_CURVATURE(x, y, t, w, loss, l2, width, intercept)


def _reference(
    x: Tensor, y: Tensor, t: Tensor, w: Tensor, loss: int, l2: float, width: float, intercept: bool
) -> Outputs:
    m = y * product(x, w, intercept)
    objective = (t * losses.loss(loss, m, width)).sum(-1) + l2 / 2 * w.square().sum(-1)
    gradient = transposed_product(x, t * y * losses.slope(loss, m, width), intercept) + l2 * w
    c = t * losses.curvature(loss, m, width)
    diagonal = transposed_product(x.square(), c, intercept) + l2
    return objective, gradient.contiguous(), c.contiguous(), diagonal.contiguous()


def _fake(x: Tensor, y: Tensor, t: Tensor, w: Tensor, loss: int, l2: float, width: float, intercept: bool) -> Outputs:
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-1], t.shape[:-1], w.shape[:-1])
    n, p = x.shape[-2], w.shape[-1]
    return w.new_empty(batch), w.new_empty((*batch, p)), w.new_empty((*batch, n)), w.new_empty((*batch, p))


def _gradient(inputs: Args, saved: Args, cotangents: Grads, needs: tuple[bool, ...]) -> Grads:
    """Of sum_i t_i [g_o l(m_i) + y_i l'(m_i) q_i + l''(m_i) e_i] + the terms in l2, q = X~ g_g, e = g_c + X~^2 g_d."""
    x, y, t, w, loss, l2, width, intercept = inputs
    if needs[1]:
        raise BackendError("amu_fast::glm_gradient_curvature has no gradient of the labels y; detach them")
    m = y * product(x, w, intercept)
    first, second, third = (f(loss, m, width) for f in (losses.slope, losses.curvature, losses.curvature_slope))
    shapes = (m.shape[:-1], w.shape, m.shape, w.shape)
    g_o, g_g, g_c, g_d = (x.new_zeros(shape) if g is None else g for g, shape in zip(cotangents, shapes, strict=True))
    g_o = g_o.unsqueeze(-1)
    q = product(x, g_g, intercept)
    e = g_c if cotangents[3] is None else g_c + product(x.square(), g_d, intercept)
    dx = dt = dw = None
    dz = y * t * (g_o * first + y * second * q + third * e)
    if needs[0]:
        dx = outer((dz, t * y * first), (w, g_g), x.shape[-1])
        if cotangents[3] is not None:
            dx = dx + 2 * (t * second).unsqueeze(-1) * x * g_d[..., None, : x.shape[-1]]
        dx = dx.sum_to_size(x.shape)
    if needs[2]:
        dt = (g_o * losses.loss(loss, m, width) + y * first * q + second * e).sum_to_size(t.shape)
    if needs[3]:
        dw = (transposed_product(x, dz, intercept) + l2 * (g_o * w + g_g)).sum_to_size(w.shape)
    return dx, None, dt, dw, None, None, None, None


GLM_GRADIENT_CURVATURE = define(
    "glm_gradient_curvature",
    reference=_reference,
    fake=_fake,
    gradient=_gradient,
    vmap=batching_rule("glm_gradient_curvature", cores=(2, 1, 1, 1), outputs=4),
)
