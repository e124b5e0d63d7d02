"""Vector updates of the iterative solvers: many problems, scalars that never leave the device, sums in float64.

    multi_dot        <a, b>
    _cg_direction    rz' = <r, z>            p = z + (rz'/rz) p      (p = z where the direction starts anew)
    _cg_update       curvature = <p, h>      y += alpha p    r -= alpha h    alpha = rz/curvature    size = ||r||
    _neumann_step    r = b - h               size = ||r||    y += eta r

h is the product of the operator with p or y. A problem that is not `running` keeps its p, y and r bit for bit (and
`_neumann_step`'s r, which is a residual, is that of its y). Scalars are float64 on the device; alpha, beta and eta
are rounded to the vectors' dtype before they multiply one. Vectors are `(*b, N)`, scalars `(*b)`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.ops.gradients import Args, Grads
from amu_fast.ops.registry import define, define_in_place


def multi_dot(a: Tensor, b: Tensor) -> Tensor:
    """Return <a, b> over the last dimension, products and sums in float64.

    Differentiable once in both, under `torch.func` and `torch.compile` too.

    Args:
        a: (*b, N), float32 or float64.
        b: (*b, N) of the same dtype; batch dimensions broadcast.

    Returns:
        (*b) float64.

    Raises:
        DataError: lengths or dtypes do not fit.

    Accuracy:
        Products of float32 are exact, their sum is that of float64 in a fixed order: bitwise equal for any number
        of threads on the CPU with the C++ extension.

    >>> multi_dot(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [11.0, 2.0]
    """
    if a.ndim < 1 or b.ndim < 1 or a.shape[-1] != b.shape[-1]:
        raise DataError(f"a and b need one length, got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.dtype not in (torch.float32, torch.float64) or a.dtype != b.dtype:
        raise DataError(f"a and b must both be float32 or both float64, got {a.dtype} and {b.dtype}")
    return MULTI_DOT(a, b)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> over the last dimension, products and sum in float64."""
    return (a.double() * b.double()).sum(-1)


def norm(a: Tensor) -> Tensor:
    """||a|| over the last dimension in float64; scaled by max|a| first, so it neither over- nor underflows."""
    if a.shape[-1] == 0:
        return a.new_zeros(a.shape[:-1], dtype=torch.float64)
    top = a.double().abs().amax(-1)
    unit = torch.where(top.isfinite() & (top > 0), top, 1.0)
    return unit * (a.double() / unit[..., None]).square().sum(-1).sqrt()


def _dot_fake(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(torch.broadcast_shapes(a.shape, b.shape)[:-1], dtype=torch.float64)


def _dot_gradient(inputs: Args, saved: Args, cotangents: Grads, needs: tuple[bool, ...]) -> Grads:
    (a, b), (g,) = inputs, cotangents
    da = (g[..., None] * b.double()).sum_to_size(a.shape).to(a.dtype) if needs[0] else None
    db = (g[..., None] * a.double()).sum_to_size(b.shape).to(b.dtype) if needs[1] else None
    return da, db


def leading(dims: tuple[int | None, ...], tensors: tuple[Tensor, ...], cores: tuple[int, ...]) -> list[Tensor]:
    """Put the mapped dimension in front of the batch dimensions, all of one rank, so that these broadcast.

    Args:
        dims: the mapped dimension of each tensor, None where there is none.
        tensors: `(*b, *core)`.
        cores: how many dimensions of each tensor are no batch dimensions.
    """
    ranks = [t.ndim - core - (dim is not None) for t, core, dim in zip(tensors, cores, dims, strict=True)]
    moved = []
    for t, rank, dim in zip(tensors, ranks, dims, strict=True):
        if dim is not None:
            t = t.movedim(dim, 0)
            t = t.reshape(t.shape[:1] + (1,) * (max(ranks) - rank) + t.shape[1:])
        moved.append(t)
    return moved


def _dot_vmap(info: Any, in_dims: tuple[int | None, ...], a: Tensor, b: Tensor) -> tuple[Tensor, int]:
    return MULTI_DOT.bare(*leading(in_dims, (a, b), (1, 1))), 0


def _direction(r: Tensor, z: Tensor, p: Tensor, rz: Tensor, restart: Tensor, running: Tensor) -> None:
    new = dot(r, z)
    beta = (new / rz).to(p.dtype)[..., None]
    following = torch.where(restart[..., None], z, z + beta * p)
    p.copy_(torch.where(running[..., None], following, p))
    rz.copy_(torch.where(running, new, rz))
    restart.logical_and_(~running)


def _direction_fake(r: Tensor, z: Tensor, p: Tensor, rz: Tensor, restart: Tensor, running: Tensor) -> None:
    return None


def _update(p: Tensor, hp: Tensor, rz: Tensor, running: Tensor, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    curvature = dot(p, hp)
    moving = running & curvature.isfinite() & rz.isfinite() & (curvature > 0) & (rz > 0)
    alpha = (rz / curvature).to(p.dtype)[..., None]
    y.copy_(torch.where(moving[..., None], y + alpha * p, y))
    r.copy_(torch.where(moving[..., None], r - alpha * hp, r))
    return curvature, norm(r)


def _update_fake(p: Tensor, hp: Tensor, rz: Tensor, running: Tensor, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rz), torch.empty_like(rz)


def _neumann(b: Tensor, hy: Tensor, eta: Tensor, running: Tensor, y: Tensor, r: Tensor) -> Tensor:
    r.copy_(b - hy)
    y.copy_(torch.where(running[..., None], y + eta.to(y.dtype)[..., None] * r, y))
    return norm(r)


def _neumann_fake(b: Tensor, hy: Tensor, eta: Tensor, running: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return r.new_empty(r.shape[:-1], dtype=torch.float64)


MULTI_DOT = define("multi_dot", reference=dot, fake=_dot_fake, gradient=_dot_gradient, vmap=_dot_vmap)
CG_DIRECTION = define_in_place("_cg_direction", reference=_direction, fake=_direction_fake)
CG_UPDATE = define_in_place("_cg_update", reference=_update, fake=_update_fake)
NEUMANN_STEP = define_in_place("_neumann_step", reference=_neumann, fake=_neumann_fake)
