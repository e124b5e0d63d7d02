"""Gradient rows of an auditor step from their factors, under any cotangent c (K, G) of `per_problem`.

    gradient_i = - sum_k c_kg [alpha_ki u_kg + beta_ki w_kg + t_ki (a_kg + (s_i - mean_kg) o b_kg)],   i in group g

alpha, beta are the factors of equations (7), (8) of docs/game.md; where scores are standardised, u and w are divided by
the columns' deviations sd, and t = 1/n on training rows, a = A/sd, b = B/sd^2 add the gradient through the moments,
equation (S). Keeping factors instead of rows saves K N d doubles written by the step and read here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amu_fast.errors import BackendError
from amu_fast.ops.registry import define

_WITHOUT_MOMENTS, _WITH_MOMENTS = 2, 5


def directions(standardize: bool) -> int:
    """Vectors of one problem: u, w and, where scores are standardised, a, b, mean."""
    return _WITH_MOMENTS if standardize else _WITHOUT_MOMENTS


def _reference(cotangents: Tensor, scores: Tensor, groups: Tensor, coefficients: Tensor, directions: Tensor) -> Tensor:
    """Cotangents (K, G), scores (N, d), groups (N,), coefficients (K, N, 3), directions (K, G, 2 or 5, d)."""
    of_row = groups.clamp_min(0)
    weight = torch.where(groups < 0, 0, cotangents[:, of_row].double())
    # A problem that the caller left out (cotangent 0) must not spread its NaN, nor a row that is in none.
    used = (weight != 0) & (coefficients != 0).any(-1)
    alpha, beta, t = torch.where(used.unsqueeze(-1), coefficients * weight.unsqueeze(-1), 0).unsqueeze(-1).unbind(-2)
    vectors = [v[:, of_row] for v in directions.unbind(-2)]
    rows = alpha * vectors[0] + beta * vectors[1]
    if len(vectors) > _WITHOUT_MOMENTS:
        a, b, mean = vectors[2:]
        rows = rows + t * (a + (scores.double() - mean) * b)
    gradient = torch.where(used.unsqueeze(-1), rows, 0).sum(0)
    return (0 - gradient).to(scores.dtype)


def _fake(cotangents: Tensor, scores: Tensor, groups: Tensor, coefficients: Tensor, directions: Tensor) -> Tensor:
    return scores.new_empty(scores.shape)


def _gradient(inputs: Any, saved: Any, cotangents: Any, needs: Any) -> Any:
    raise BackendError("amu_fast::auditor_rows is a gradient and not differentiable; detach it")


def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Tensor, int]:
    rows = [
        auditor_rows.bare(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    return torch.stack(rows), 0


#: The operator `amu_fast::auditor_rows`.
auditor_rows = define("auditor_rows", reference=_reference, fake=_fake, gradient=_gradient, vmap=_vmap)
