"""Standardisation by a problem's own training rows, with its moments differentiated: equation (S) of docs/game.md.

    x = (s - mean) / sd            G_s = (G_x - [training row] (A + x o B) / n) / sd,   A = sum G_x,  B = sum G_x o x

Holding the moments constant instead is wrong by up to a half. Constant columns are 0 in both parts, gradient included.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amu_fast.ops.newton import EPS

# A column is constant when its deviation is at most this share of its mean: below it, 1/deviation amplifies rounding.
_CONSTANT = 1e-6
_TINY = 2.0**-1022


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

    def pull_back(self, g: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Equation (S): from gradients in standardised rows x to gradients in scores, through the moments."""
        a = g.sum(-2, keepdim=True)
        b = (g * x).sum(-2, keepdim=True)
        return (g - t.unsqueeze(-1) * (a + x * b)) * self.scale

    def pull_back_bounds(self, b: Tensor, size: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Row bounds b (P, q) through (S), and the rounding of (S) itself for gradient rows of norm `size` (P, q)."""
        widest = x.abs().amax(-1)
        total = b + EPS * (x.shape[-2] + 8) * size
        moved = total.sum(-1, keepdim=True) + widest * (total * widest).sum(-1, keepdim=True)
        return self.scale.amax(-1) * (total + t * moved)
