"""How wrong a problem's gradient can be: the bounds of docs/game.md, section 5, equation (9).

`H >= l2 I` turns the residuals of a computed optimum w and a computed adjoint u into errors; rows whose margin may lie
on the other side of a kink are counted as uncertain and charged in full. Everything is float64. Where a primal factor
exists, max(l2, 1/|H^-1|_F - eps_H) takes the place of l2, which is about ten times tighter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amu_fast.ops import losses
from amu_fast.ops.newton import EPS, Factor, Problems, times


@dataclass(frozen=True)
class HeldOut:
    """The held-out part of P problems: `weight` (P, q) is 1/N on held-out rows and 0 elsewhere; `kind` the payoff."""

    weight: Tensor
    kind: int

    def cotangent(self, problems: Problems, m: Tensor) -> Tensor:
        """(P, p): v = dM/dw = -(1/N) sum_j h'(m_j) y_j x_j."""
        return -times(problems.x.mT, self.weight * losses.payoff_slope(self.kind, m) * problems.y)


@dataclass(frozen=True)
class ProblemBounds:
    """Bounds of P problems: on |w - w*|, |u - u*| (P,), on each row's gradient (P, q), and the uncertain rows (P,)."""

    params: Tensor
    adjoint: Tensor
    rows: Tensor
    uncertain: Tensor


def problem_bounds(problems: Problems, held_out: HeldOut, w: Tensor, u: Tensor) -> ProblemBounds:
    """Equation (9) for computed w (P, p) and u (P, p), whatever stopped them; before the cast of the output.

    Both residuals are recomputed here, undamped.
    """
    l2, x = problems.l2, problems.x
    lipschitz = losses.slope_lipschitz(problems.kind, problems.width)
    t, weight = problems.t, held_out.weight
    m = problems.margins(w)
    r, w_norm, u_norm = x.norm(dim=-1), w.norm(dim=-1), u.norm(dim=-1)
    slope = losses.slope(problems.kind, m, problems.width).abs()
    curve = losses.curvature(problems.kind, m, problems.width)
    payoff_slope = losses.payoff_slope(held_out.kind, m).abs()
    xu = times(x, u).abs()
    # The number of rows is (t > 0) + (weight > 0); a row may be in neither.
    c = EPS * ((t > 0).sum(-1) + (weight > 0).sum(-1) + x.shape[-1] + 8)

    gradient = problems.gradient(m, w)
    eta = c * ((t * (slope + lipschitz * r * w_norm[:, None]) * r).sum(-1) + l2 * w_norm)
    gamma = gradient.norm(dim=-1) + eta
    factor = Factor.at(problems, m)
    residual = held_out.cotangent(problems, m) - factor.matvec(u)
    rho = residual.norm(dim=-1) + c * (
        (weight * payoff_slope * r).sum(-1) + ((t * curve * r.square()).sum(-1) + l2) * u_norm
    )

    def margin_error(delta: Tensor) -> Tensor:
        return delta[:, None] * r + (x.shape[-1] + 2) * EPS * r * w_norm[:, None]

    def curvature_error(e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """kappa_i, eps_H and which rows are uncertain, for margin errors e."""
        if problems.kind == losses.LOGISTIC:
            uncertain = torch.zeros_like(m, dtype=torch.bool)
            kappa = (losses.LOGISTIC_CURVATURE_SLOPE * e).clamp_max(0.25)
        else:
            uncertain = (1 - m).abs() <= e
            if problems.kind == losses.HUBERISED_HINGE:
                uncertain |= (1 - problems.width - m).abs() <= e
            kappa = lipschitz * uncertain.to(m.dtype)
        return kappa, (t * kappa * r.square()).sum(-1), uncertain

    _, eps_h0, _ = curvature_error(margin_error(gamma / l2))
    floor = torch.full_like(gamma, l2)
    inverse_norm = factor.inverse_norm()
    if inverse_norm is not None:
        floor = torch.maximum(floor, 1 / inverse_norm - eps_h0)
    newton_step = factor.solve(gradient).norm(dim=-1)
    delta = torch.minimum(gamma / floor, newton_step * (1 + eps_h0 / floor) + eta / floor)

    e = margin_error(delta)
    kappa, _, uncertain_train = curvature_error(e)
    if problems.kind == losses.LOGISTIC:
        slope_error = (curve + kappa).clamp_max(0.25) * e
    else:
        slope_error = torch.where(uncertain_train, lipschitz, curve) * e
    if problems.kind != losses.SQUARED_HINGE:
        slope_error = slope_error.clamp_max(1.0)
    if held_out.kind == losses.HINGE_PAYOFF:
        uncertain_held = (1 - m).abs() <= e
        payoff_error = uncertain_held.to(m.dtype)
    else:
        uncertain_held = torch.zeros_like(uncertain_train)
        bend = torch.sigmoid(m) * torch.sigmoid(-m) + losses.LOGISTIC_CURVATURE_SLOPE * e
        payoff_error = bend.clamp_max(0.25) * e
    eps_v = (weight * payoff_error * r).sum(-1)
    eps_u = (rho + eps_v + (t * kappa * xu * r).sum(-1)) / floor

    d, du, wn, un = (z[:, None] for z in (delta, eps_u, w_norm, u_norm))
    train = t * (
        slope * du
        + slope_error * (un + du)
        + curve * (r * du * (wn + d) + xu * d)
        + kappa * (xu + r * du) * (wn + d)
    )
    held = weight * (payoff_slope * d + payoff_error * (wn + d))
    terms = t * (slope * un + curve * xu * wn) + weight * payoff_slope * wn
    rows = train + held + (x.shape[-1] + 8) * EPS * terms
    uncertain = (uncertain_train & (t > 0)) | (uncertain_held & (weight > 0))
    return ProblemBounds(delta, eps_u, rows, uncertain.sum(-1))
