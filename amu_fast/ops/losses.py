"""The follower's losses and the auditor's payoffs as functions of the margin m = y <x, w>.

| kind              | l(m)                                      | l'(m)                   | l''(m)                   |
|-------------------|-------------------------------------------|-------------------------|--------------------------|
| LOGISTIC          | log(1 + e^-m)                             | -s(-m)                  | s(m) s(-m)               |
| SQUARED_HINGE     | max(0, 1-m)^2                             | -2 max(0, 1-m)          | 2 [m < 1]                |
| HUBERISED_HINGE   | 0 / (1-m)^2 / (2 width) / 1 - m - width/2 | -clip((1-m)/width, 0, 1)| [1-width < m < 1] / width|

At the kinks the generalised curvature is 0. The payoff of a held-out row is -h(m) with h the hinge or the logistic
loss. Source: docs/game.md, sections 3 and 4.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LOGISTIC, SQUARED_HINGE, HUBERISED_HINGE = 0, 1, 2
HINGE_PAYOFF, LOGISTIC_PAYOFF = 0, 1

# Largest |l'''|: the curvature s(m) s(-m) changes by at most 1/(6 sqrt 3) per unit of margin.
LOGISTIC_CURVATURE_SLOPE = 0.0963


def loss(kind: int, m: Tensor, width: float) -> Tensor:
    """l(m), elementwise."""
    if kind == LOGISTIC:
        return -functional.logsigmoid(m)
    slack = (1 - m).clamp_min(0)
    if kind == SQUARED_HINGE:
        return slack.square()
    return torch.where(slack < width, slack.square() / (2 * width), slack - width / 2)


def slope(kind: int, m: Tensor, width: float) -> Tensor:
    """l'(m), elementwise."""
    if kind == LOGISTIC:
        return -torch.sigmoid(-m)
    slack = (1 - m).clamp_min(0)
    if kind == SQUARED_HINGE:
        return -2 * slack
    return -(slack / width).clamp_max(1)


def curvature(kind: int, m: Tensor, width: float) -> Tensor:
    """l''(m), elementwise; generalised (0 at a kink) for the hinges."""
    if kind == LOGISTIC:
        return torch.sigmoid(m) * torch.sigmoid(-m)
    if kind == SQUARED_HINGE:
        return 2.0 * (m < 1).to(m.dtype)
    # 1 - m and not m - (1 - width): the region's ends must be those of `slope`.
    slack = 1 - m
    return ((slack > 0) & (slack < width)).to(m.dtype) / width


def curvature_slope(kind: int, m: Tensor, width: float) -> Tensor:
    """l'''(m), elementwise; 0 for the hinges, whose curvature is constant between the kinks."""
    if kind != LOGISTIC:
        return torch.zeros_like(m)
    s, s_minus = torch.sigmoid(m), torch.sigmoid(-m)
    return s * s_minus * (s_minus - s)


def slope_lipschitz(kind: int, width: float) -> float:
    """L: the Lipschitz constant of l', a bound on l''."""
    return (0.25, 2.0, 1 / width)[kind]


def payoff_loss(kind: int, m: Tensor) -> Tensor:
    """h(m): what the auditor loses on a held-out row."""
    return (1 - m).clamp_min(0) if kind == HINGE_PAYOFF else -functional.logsigmoid(m)


def payoff_slope(kind: int, m: Tensor) -> Tensor:
    """h'(m); 0 at the hinge's kink."""
    return -(m < 1).to(m.dtype) if kind == HINGE_PAYOFF else -torch.sigmoid(-m)
