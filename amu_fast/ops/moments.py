"""Standardisation by a problem's own training rows, with its moments differentiated: equation (S) of docs/game.md.

    x = (s - mean) / sd            G_s = (G_x - [training row] (A + x o B) / n) / sd,   A = sum G_x,  B = sum G_x o x

Holding the moments constant instead is wrong by up to a half. Constant columns are 0 in both parts, gradient included.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amu_fast.ops.newton import EPS, times

# A column is constant when its deviation is at most this share of its mean: below it, 1/deviation amplifies rounding.
_CONSTANT = 1e-6
_TINY = 2.0**-1022


@dataclass(frozen=True)
class Factors:
    """Gradient rows in factors: G_x of row i is -(alpha_i u + beta_i w); alpha, beta (P, q), u, w (P, d)."""

    alpha: Tensor
    beta: Tensor
    u: Tensor
    w: Tensor

    def sizes(self, scale: Tensor | float = 1.0) -> Tensor:
        """(P, q): |alpha| |u o scale| + |beta| |w o scale| >= |G_x o scale|."""
        u, w = ((v * scale).norm(dim=-1, keepdim=True) for v in (self.u, self.w))
        return self.alpha.abs() * u + self.beta.abs() * w


@dataclass(frozen=True)
class Moments:
    """Mean and deviation (divisor n) of each problem's training rows, (P, 1, d); `scale` is 0 on constant columns."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, x: Tensor, t: Tensor) -> Moments:
        """Moments of x (P, q, d) under row weights t (P, q) that sum to 1."""
        weight = t.unsqueeze(-1)
        mean = (weight * x).sum(-2, keepdim=True)
        # Squares of scores beyond 1e±154 would leave the range of a double.
        centred = torch.where(weight > 0, x - mean, 0)
        unit = centred.abs().amax(-2, keepdim=True).clamp_min(_TINY)
        deviation = unit * (weight * (centred / unit).square()).sum(-2, keepdim=True).sqrt()
        constant = deviation <= _CONSTANT * mean.abs().clamp_min(_TINY)
        return cls(mean, torch.where(constant, 0, 1 / deviation))

    def apply(self, x: Tensor) -> Tensor:
        """Standardised rows; 0 in constant columns."""
        return torch.where(self.scale > 0, (x - self.mean) * self.scale, 0)

    def pull_back(self, factors: Factors, x: Tensor) -> list[Tensor]:
        """Equation (S) in factors: u/sd, w/sd, A/sd, B/sd^2 and the mean, (P, d) each.

        With them G_s is -(alpha u/sd + beta w/sd), and on training rows in addition -(A/sd + (s - mean) o B/sd^2)/n.
        """
        scale, mean = self.scale.squeeze(-2), self.mean.squeeze(-2)
        u, w = factors.u, factors.w
        a = -(factors.alpha.sum(-1, keepdim=True) * u + factors.beta.sum(-1, keepdim=True) * w)
        b = -(times(x.mT, factors.alpha) * u + times(x.mT, factors.beta) * w)
        return [u * scale, w * scale, a * scale, b * scale.square(), mean]

    def pull_back_bounds(
        self, b: Tensor, factors: Factors, vectors: list[Tensor], x: Tensor, t: Tensor, rows: Tensor, cast: float
    ) -> Tensor:
        """Bounds b (P, q) of `rows` (P,) rows through (S), with the rounding of (S) itself and the cast of the rows."""
        widest = x.abs().amax(-1)
        total = b + EPS * (rows[:, None] + 8) * factors.sizes()
        moved = total.sum(-1, keepdim=True) + widest * (total * widest).sum(-1, keepdim=True)
        scale = self.scale.squeeze(-2)
        narrow = torch.where(scale > 0, vectors[3].abs() / scale, 0).amax(-1, keepdim=True)
        # |x~| with the intercept's 1, as in the rest of equation (9).
        norms = (x.square().sum(-1) + 1).sqrt()
        size = factors.sizes(scale) + t * (vectors[2].norm(dim=-1, keepdim=True) + norms * narrow)
        return scale.amax(-1, keepdim=True) * (total + t * moved) + cast * size
