"""The bounds of docs/game.md section 5, formula by formula, for one problem: equation (9) in plain numpy.

Given the optimum ŵ and adjoint û of some solver, `bounds` says how far the gradient made of them can be from
the exact one. It is evaluated in the oracle's `dtype`, with the ε of the arithmetic that produced ŵ and û.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from oracle_follower import payoff_slope

EPS = 2.0**-53
#: Largest |σ''|, the Lipschitz constant of ℓ'' of the logistic loss, rounded up: 1/(6√3) = 0.09622...
LOGISTIC_THIRD = 0.0963


@dataclass(frozen=True)
class Bounds:
    """Bounds of one problem; `train` and `held_out` are per row, (S) included."""

    param: float
    adjoint: float
    gradient: float
    uncertain_rows: int
    train: np.ndarray
    held_out: np.ndarray


def _norms(rows):
    return np.sqrt((rows**2).sum(axis=-1))


def _kinks(follower, m, e):
    """Whether each training row is within e of a kink of ℓ'."""
    if follower.loss == "logistic":
        return np.zeros(m.shape, bool)
    near = np.abs(1 - m) <= e
    if follower.loss == "huberised_hinge":
        near |= np.abs(1 - follower.width - m) <= e
    return near


def _kappa(follower, m, e, lipschitz):
    """κ_i: how far ℓ'' can be from its value at ŵ."""
    if follower.loss == "logistic":
        return np.minimum(0.25, LOGISTIC_THIRD * e)
    return lipschitz * _kinks(follower, m, e)


def bounds(problem, w, u, output_eps=0.0, factor=True):
    """Section 5 at (ŵ, û) = (w, u); `factor=False` uses the residual and l2 alone."""
    f, x, h, y, z, size = problem.follower, problem.x, problem.h, problem.y, problem.z, problem.normaliser
    (n, p), held = x.shape, len(h)
    lipschitz = {"logistic": 0.25, "squared_hinge": 2.0, "huberised_hinge": 1 / f.width}[f.loss]
    c, nx, nh, nw, nu = (n + held + p + 8) * EPS, _norms(x), _norms(h), _norms(w), _norms(u)
    m, q = y * (x @ w), z * (h @ w)
    slope, curve, h_slope = f.slope(m), f.curvature(m), payoff_slope(problem.payoff_kind, q)
    v = -(h.T @ (h_slope * z)) / size
    residual = f.gradient(x, y, w)
    r = v - (x.T @ (curve * (x @ u)) / n + f.l2 * u)
    eta = c * (((np.abs(slope) + lipschitz * nx * nw) * nx).mean() + f.l2 * nw)
    gamma = _norms(residual) + eta
    terms = (np.abs(h_slope) * nh).sum() / size + ((curve * nx**2).mean() + f.l2) * nu
    rho = _norms(r) + c * terms

    def e_of(delta, norms):
        return delta * norms + (p + 2) * EPS * norms * nw

    def eps_h(delta):
        return (_kappa(f, m, e_of(delta, nx), lipschitz) * nx**2).mean()

    strength, eps_plain = f.l2, eps_h(gamma / f.l2)
    inverse = np.linalg.inv(f.hessian(x, y, w.astype(x.dtype)))
    if factor and n >= p:
        strength = max(f.l2, 1 / np.linalg.norm(inverse) - eps_plain)
    delta = gamma / strength
    if factor:
        s = _norms(inverse @ residual)
        delta = min(delta, s * (1 + eps_plain / strength) + eta / strength)
    e, e_held = e_of(delta, nx), e_of(delta, nh)
    kappa = _kappa(f, m, e, lipschitz)
    uncertain, held_uncertain = _kinks(f, m, e), (np.abs(1 - q) <= e_held) & (problem.payoff_kind == "hinge")
    if f.loss == "logistic":
        a = np.minimum(1, np.minimum(0.25, curve + kappa) * e)
    else:
        a = np.where(uncertain, lipschitz, curve) * e
        a = a if f.loss == "squared_hinge" else np.minimum(1, a)
    if problem.payoff_kind == "hinge":
        b = held_uncertain.astype(x.dtype)
    else:
        logistic = -h_slope * (1 + h_slope)
        b = np.minimum(0.25, logistic + LOGISTIC_THIRD * e_held) * e_held
    eps_v = (b * nh).sum() / size
    along = np.abs(x @ u)
    eps_u = (rho + eps_v + (kappa * along * nx).mean()) / strength
    sizes = np.abs(slope) * nu + curve * along * nw
    train = np.abs(slope) * eps_u + a * (nu + eps_u) + curve * (nx * eps_u * (nw + delta) + along * delta)
    train = (train + kappa * (along + nx * eps_u) * (nw + delta) + (p + 8) * EPS * sizes) / n
    held_out = (np.abs(h_slope) * delta + b * (nw + delta) + (p + 8) * EPS * np.abs(h_slope) * nw) / size
    if problem.sd is not None:
        train, held_out = _through_moments(problem, train, held_out)
    train, held_out = (_cast(problem, w, u, train, held_out, output_eps)) if output_eps else (train, held_out)
    root = np.sqrt((train**2).sum() + (held_out**2).sum())
    return Bounds(float(delta), float(eps_u), float(root), int(uncertain.sum() + held_uncertain.sum()), train, held_out)


def _through_moments(problem, train, held_out):
    """Row bounds through (S): max(1/sd)·[b_i + (Σ b_j + ‖x_i‖_∞ Σ b_j ‖x_j‖_∞)/n]."""
    x, h = problem.x[:, :-1], problem.h[:, :-1]
    largest, largest_held = np.abs(x).max(axis=1), np.abs(h).max(axis=1, initial=0)
    total = train.sum() + held_out.sum()
    weighted = (train * largest).sum() + (held_out * largest_held).sum()
    scale = (1 / problem.sd).max()
    return scale * (train + (total + largest * weighted) / len(x)), scale * held_out


def _cast(problem, w, u, train, held_out, output_eps):
    """Add the rounding of the gradient rows to the output type."""
    from dataclasses import replace

    from oracle import gradients

    rows, held_rows = gradients(replace(problem, w=w, u=u))
    return train + output_eps * _norms(rows), held_out + output_eps * _norms(held_rows)
