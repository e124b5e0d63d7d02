"""The mixed derivative of a follower's objective along an adjoint: what flows back to the training rows.

    -d<dg(w), u>/dx_i = -[t_i y_i l'(m_i) u + t_i l''(m_i) <x~_i, u> w]   (intercept's entry dropped)    equation (7)

with m = y o (X~ w), X~ = [x, 1] with an intercept, else x.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amu_fast.errors import BackendError
from amu_fast.ops import losses
from amu_fast.ops.glm_arguments import batching_rule, check_loss, check_tensors, outer, product, transposed_product
from amu_fast.ops.gradients import Args, Grads
from amu_fast.ops.registry import define


def glm_mixed_vjp(
    x: Tensor, y: Tensor, t: Tensor, w: Tensor, u: Tensor, loss: int, width: float, intercept: bool
) -> Tensor:
    """Return the rows -[t y l'(m) u + t l''(m) <x~, u> w], equation (7).

    Differentiable once in `x`, `t`, `w` and `u`, under `torch.func` and `torch.compile` too; forward mode, a second
    differentiation and a gradient of the labels raise.

    Args:
        x: (*b, n, d) rows, float32 or float64.
        y: (*b, n) labels, +1 or -1 (trusted: checking them would make the device wait).
        t: (*b, n) weights of the rows, >= 0; 1/n each for equation (7).
        w: (*b, p) parameters, p = d + 1 with an intercept (its entry is the last) and d without.
        u: (*b, p) adjoint, the solution of equation (6).
        loss: a kind of `amu_fast.ops.losses`.
        width: width of the Huberised hinge's rounded part, > 0; the other losses ignore it.
        intercept: whether a column of ones is appended to `x`.

    Returns:
        (*b, n, d), contiguous. The batch dimensions of the arguments broadcast.

    Raises:
        DataError: shapes or dtypes do not fit, `loss` is unknown, or width is out of range.

    Accuracy:
        Error at most twice that of the plain formulas in the same precision; bitwise equal for any number of
        threads on the CPU with the C++ extension.

    >>> x, y, t = torch.tensor([[1.0], [-1.0]]), torch.tensor([1.0, -1.0]), torch.full((2,), 0.5)
    >>> w, u = torch.tensor([0.25]), torch.tensor([1.0])
    >>> glm_mixed_vjp(x, y, t, w, u, losses.SQUARED_HINGE, 1.0, intercept=False)
    tensor([[ 0.5000],
            [-0.5000]])
    """
    check_tensors(x, {"y": y, "t": t}, {"w": w, "u": u}, intercept)
    check_loss(loss, width)
    return GLM_MIXED_VJP(x, y, t, w, u, loss, width, intercept)


def _reference(
    x: Tensor, y: Tensor, t: Tensor, w: Tensor, u: Tensor, loss: int, width: float, intercept: bool
) -> Tensor:
    d = x.shape[-1]
    m = y * product(x, w, intercept)
    along_u = t * y * losses.slope(loss, m, width)
    along_w = t * losses.curvature(loss, m, width) * product(x, u, intercept)
    return -(along_u.unsqueeze(-1) * u[..., None, :d] + along_w.unsqueeze(-1) * w[..., None, :d])


def _fake(x: Tensor, y: Tensor, t: Tensor, w: Tensor, u: Tensor, loss: int, width: float, intercept: bool) -> Tensor:
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-1], t.shape[:-1], w.shape[:-1], u.shape[:-1])
    return x.new_empty((*batch, *x.shape[-2:]))


def _gradient(inputs: Args, saved: Args, cotangents: Grads, needs: tuple[bool, ...]) -> Grads:
    """Of -sum_i t_i [y_i l'(m_i) <g_i, u> + l''(m_i) <x~_i, u> <g_i, w>], g the cotangent, 0 for the intercept."""
    (x, y, t, w, u, loss, width, intercept), (g,) = inputs, cotangents
    if needs[1]:
        raise BackendError("amu_fast::glm_mixed_vjp has no gradient of the labels y; detach them")
    d = x.shape[-1]
    m, s = y * product(x, w, intercept), product(x, u, intercept)
    first, second, third = (f(loss, m, width) for f in (losses.slope, losses.curvature, losses.curvature_slope))
    gu, gw = product(g, u[..., :d], False), product(g, w[..., :d], False)
    dz = -y * t * (y * second * gu + third * s * gw)  # by <x~, w>
    ds = -t * second * gw
    dx = dt = dw = du = None
    if needs[0]:
        dx = outer((dz, ds), (w, u), d).sum_to_size(x.shape)
    if needs[2]:
        dt = -(y * first * gu + second * s * gw).sum_to_size(t.shape)
    if needs[3]:
        dw = (transposed_product(x, dz, intercept) + _rows_sum(g, -t * second * s, intercept)).sum_to_size(w.shape)
    if needs[4]:
        du = (transposed_product(x, ds, intercept) + _rows_sum(g, -t * y * first, intercept)).sum_to_size(u.shape)
    return dx, None, dt, dw, du, None, None, None


def _rows_sum(g: Tensor, r: Tensor, intercept: bool) -> Tensor:
    """g^T r with a 0 for the intercept: (*b, p)."""
    return torch.nn.functional.pad(transposed_product(g, r, False), (0, int(intercept)))


GLM_MIXED_VJP = define(
    "glm_mixed_vjp",
    reference=_reference,
    fake=_fake,
    gradient=_gradient,
    vmap=batching_rule("glm_mixed_vjp", cores=(2, 1, 1, 1, 1)),
)
