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
    at = _Iterate.of(problems, held_out, w, u)
    factor = Factor.at(problems, at.m)
    delta, floor = at.param_error(factor)
    e = at.margin_error(delta)
    kappa, _, uncertain_train = at.curvature_error(e)
    payoff_error, uncertain_held = at.payoff_error(e)
    eps_u = (at.adjoint_residual(factor) + at.eps_v(payoff_error) + at.eps_hu(kappa)) / floor
    rows = at.row_errors(delta, eps_u, kappa, at.slope_error(e, kappa, uncertain_train), payoff_error)
    uncertain = (uncertain_train & (problems.t > 0)) | (uncertain_held & (held_out.weight > 0))
    return ProblemBounds(delta, eps_u, rows, uncertain.sum(-1))


@dataclass(frozen=True)
class _Iterate:
    """What (9) reads at (w, u): margins m, row norms r, |l'|, l'', |h'|, |<x, u>| (P, q), norms (P,), L and c."""

    problems: Problems
    held_out: HeldOut
    w: Tensor
    u: Tensor
    m: Tensor
    r: Tensor
    slope: Tensor
    curve: Tensor
    payoff_slope: Tensor
    xu: Tensor
    w_norm: Tensor
    u_norm: Tensor
    lipschitz: float
    c: Tensor

    @classmethod
    def of(cls, problems: Problems, held_out: HeldOut, w: Tensor, u: Tensor) -> _Iterate:
        x, m = problems.x, problems.margins(w)
        rows = (problems.t > 0).sum(-1) + (held_out.weight > 0).sum(-1)
        return cls(
            problems=problems,
            held_out=held_out,
            w=w,
            u=u,
            m=m,
            r=x.norm(dim=-1),
            slope=losses.slope(problems.kind, m, problems.width).abs(),
            curve=losses.curvature(problems.kind, m, problems.width),
            payoff_slope=losses.payoff_slope(held_out.kind, m).abs(),
            xu=times(x, u).abs(),
            w_norm=w.norm(dim=-1),
            u_norm=u.norm(dim=-1),
            lipschitz=losses.slope_lipschitz(problems.kind, problems.width),
            c=EPS * (rows + x.shape[-1] + 8),
        )

    def param_error(self, factor: Factor) -> tuple[Tensor, Tensor]:
        """Delta >= |w - w*| and a lower bound of the Hessian's eigenvalues around w, both (P,)."""
        problems, l2 = self.problems, self.problems.l2
        gradient = problems.gradient(self.m, self.w)
        terms = (self.slope + self.lipschitz * self.r * self.w_norm[:, None]) * self.r
        eta = self.c * ((problems.t * terms).sum(-1) + l2 * self.w_norm)
        gamma = gradient.norm(dim=-1) + eta
        _, eps_h, _ = self.curvature_error(self.margin_error(gamma / l2))
        floor = torch.full_like(gamma, l2)
        inverse_norm = factor.inverse_norm()
        if inverse_norm is not None:
            floor = torch.maximum(floor, 1 / inverse_norm - eps_h)
        step = factor.solve(gradient).norm(dim=-1)
        return torch.minimum(gamma / floor, step * (1 + eps_h / floor) + eta / floor), floor

    def adjoint_residual(self, factor: Factor) -> Tensor:
        """(P,): rho, the residual v - H u with its own rounding."""
        residual = self.held_out.cotangent(self.problems, self.m) - factor.matvec(self.u)
        v_terms = (self.held_out.weight * self.payoff_slope * self.r).sum(-1)
        h_terms = (self.problems.t * self.curve * self.r.square()).sum(-1) + self.problems.l2
        return residual.norm(dim=-1) + self.c * (v_terms + h_terms * self.u_norm)

    def margin_error(self, delta: Tensor) -> Tensor:
        """(P, q): e, the error of a margin."""
        rounding = (self.problems.x.shape[-1] + 2) * EPS * self.w_norm[:, None]
        return self.r * (delta[:, None] + rounding)

    def curvature_error(self, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Kappa (P, q), eps_H (P,), and the rows (P, q) that may lie on the other side of a kink."""
        uncertain = torch.zeros_like(self.m, dtype=torch.bool)
        if self.problems.kind == losses.LOGISTIC:
            kappa = (losses.LOGISTIC_CURVATURE_SLOPE * e).clamp_max(0.25)
        else:
            uncertain = (1 - self.m).abs() <= e
            if self.problems.kind == losses.HUBERISED_HINGE:
                uncertain |= (1 - self.problems.width - self.m).abs() <= e
            kappa = self.lipschitz * uncertain.to(e.dtype)
        return kappa, (self.problems.t * kappa * self.r.square()).sum(-1), uncertain

    def slope_error(self, e: Tensor, kappa: Tensor, uncertain: Tensor) -> Tensor:
        """(P, q): a, the error of l'."""
        if self.problems.kind == losses.LOGISTIC:
            return ((self.curve + kappa).clamp_max(0.25) * e).clamp_max(1.0)
        error = torch.where(uncertain, self.lipschitz, self.curve) * e
        return error if self.problems.kind == losses.SQUARED_HINGE else error.clamp_max(1.0)

    def payoff_error(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """B (P, q), the error of h', and the rows that may lie on the other side of its kink."""
        if self.held_out.kind == losses.HINGE_PAYOFF:
            uncertain = (1 - self.m).abs() <= e
            return uncertain.to(e.dtype), uncertain
        bend = torch.sigmoid(self.m) * torch.sigmoid(-self.m) + losses.LOGISTIC_CURVATURE_SLOPE * e
        return bend.clamp_max(0.25) * e, torch.zeros_like(e, dtype=torch.bool)

    def eps_v(self, payoff_error: Tensor) -> Tensor:
        """(P,): the error of v."""
        return (self.held_out.weight * payoff_error * self.r).sum(-1)

    def eps_hu(self, kappa: Tensor) -> Tensor:
        """(P,): the error of H u."""
        return (self.problems.t * kappa * self.xu * self.r).sum(-1)

    def row_errors(
        self, delta: Tensor, eps_u: Tensor, kappa: Tensor, slope_error: Tensor, payoff_error: Tensor
    ) -> Tensor:
        """(P, q): equation (9) with the rounding of each row's own terms."""
        d, du, wn, un = (z[:, None] for z in (delta, eps_u, self.w_norm, self.u_norm))
        along_w = self.curve * (self.r * du * (wn + d) + self.xu * d) + kappa * (self.xu + self.r * du) * (wn + d)
        train = self.problems.t * (self.slope * du + slope_error * (un + du) + along_w)
        held = self.held_out.weight * (self.payoff_slope * d + payoff_error * (wn + d))
        terms = self.problems.t * (self.slope * un + self.curve * self.xu * wn)
        terms = terms + self.held_out.weight * self.payoff_slope * wn
        return train + held + (self.problems.x.shape[-1] + 8) * EPS * terms
