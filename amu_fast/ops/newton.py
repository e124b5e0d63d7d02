"""A batch of linear follower problems, and damped Newton on all of them at once, in float64.

    g(w)  = sum_i t_i l(m_i) + (l2/2) |w|^2,     m_i = y_i <x_i, w>,   t_i = 1/n on training rows, else 0     (2)
    dg(w) = X^T (t o y o l'(m)) + l2 w                                                                       (3)
    H v   = X^T (c o (X v)) + l2 v,              c_i = t_i l''(m_i)                                          (4)

Rows carry the intercept as their last column. Problems are padded to a common number of rows; padding has t = 0.
Where a problem has fewer training rows than columns, H is solved through the n x n Gram matrix K = X X^T:

    u = (v - X^T C^1/2 B^-1 C^1/2 X v) / l2,     B = l2 I + C^1/2 K C^1/2

Source: docs/game.md, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amu_fast.ops import losses
from amu_fast.status import Status

EPS = 2.0**-53
_ARMIJO = 1e-4
# Rounding of a sum of losses: a step whose change of g is below this is judged by its slope instead.
_SLACK = 4e-16
_LINE_STEPS = 60


@dataclass(frozen=True)
class Problems:
    """P follower problems of at most q rows and p columns each.

    Attributes:
        x: (P, q, p) rows with the intercept as last column, float64.
        y: (P, q) labels, +1 or -1 (any on padding).
        t: (P, q) row weights: 1/n on training rows, 0 elsewhere.
        kind: loss, a constant of `losses`.
        l2: strength of the regulariser, > 0.
        width: width of the Huberised hinge.
        gram: (P, q, q) X X^T where the dual form is used, else None.
    """

    x: Tensor
    y: Tensor
    t: Tensor
    kind: int
    l2: float
    width: float
    gram: Tensor | None = None

    def with_gram(self) -> Problems:
        """The same problems in the dual form, with rows outside the training part masked out of the Gram matrix."""
        rows = self.x * (self.t > 0).unsqueeze(-1)
        return replace(self, gram=rows @ rows.mT)

    def take(self, index: Tensor) -> Problems:
        """The problems at `index`."""
        gram = None if self.gram is None else self.gram[index]
        return replace(self, x=self.x[index], y=self.y[index], t=self.t[index], gram=gram)

    def margins(self, w: Tensor) -> Tensor:
        """(P, q): y <x, w>."""
        return self.y * times(self.x, w)

    def objective(self, m: Tensor, w: Tensor) -> Tensor:
        """(P,): g at margins m."""
        return (self.t * losses.loss(self.kind, m, self.width)).sum(-1) + 0.5 * self.l2 * w.square().sum(-1)

    def gradient(self, m: Tensor, w: Tensor) -> Tensor:
        """(P, p): equation (3)."""
        return times(self.x.mT, self.t * self.y * losses.slope(self.kind, m, self.width)) + self.l2 * w

    def row_curvature(self, m: Tensor) -> Tensor:
        """(P, q): c of equation (4)."""
        return self.t * losses.curvature(self.kind, m, self.width)


@dataclass(frozen=True)
class Factor:
    """H at given margins, factored: by Cholesky of the p x p matrix, or of the n x n matrix B in the dual form."""

    problems: Problems
    c: Tensor
    chol: Tensor

    @classmethod
    def at(cls, problems: Problems, m: Tensor) -> Factor:
        """Factor H at margins m (P, q). A problem whose matrix is not finite gets a non-finite factor."""
        c = problems.row_curvature(m)
        if problems.gram is None:
            matrix = problems.x.mT @ (c.unsqueeze(-1) * problems.x)
        else:
            root = c.sqrt()
            matrix = root.unsqueeze(-1) * problems.gram * root.unsqueeze(-2)
        matrix.diagonal(dim1=-2, dim2=-1).add_(problems.l2)
        chol, info = torch.linalg.cholesky_ex(matrix)
        # l2 > 0 makes every finite H positive definite: a failure means overflow, and must not look like an answer.
        chol = torch.where((info == 0)[:, None, None], chol, torch.nan)
        return cls(problems, c, chol)

    def matvec(self, v: Tensor) -> Tensor:
        """(P, p): H v, equation (4)."""
        x = self.problems.x
        return times(x.mT, self.c * times(x, v)) + self.problems.l2 * v

    def solve(self, v: Tensor) -> Tensor:
        """(P, p): H^-1 v, unrefined."""
        if self.problems.gram is None:
            return torch.cholesky_solve(v.unsqueeze(-1), self.chol).squeeze(-1)
        x, root = self.problems.x, self.c.sqrt()
        inner = torch.cholesky_solve((root * times(x, v)).unsqueeze(-1), self.chol).squeeze(-1)
        return (v - times(x.mT, root * inner)) / self.problems.l2

    def solve_refined(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """H^-1 v, refined once where that helps, and its true residual v - H u."""
        u = self.solve(v)
        residual = v - self.matvec(u)
        better = u + self.solve(residual)
        better_residual = v - self.matvec(better)
        improved = (better_residual.norm(dim=-1) < residual.norm(dim=-1)).unsqueeze(-1)
        return torch.where(improved, better, u), torch.where(improved, better_residual, residual)

    def inverse_norm(self) -> Tensor | None:
        """(P,): |H^-1|_F in the primal form; None in the dual form, where the smallest eigenvalue is l2 itself."""
        if self.problems.gram is not None:
            return None
        return torch.cholesky_inverse(self.chol).flatten(-2).norm(dim=-1)


@dataclass(frozen=True)
class Optima:
    """Where Newton stopped: w (P, p), NaN where NONFINITE, |dg(w)| (P,), Status as int8 (P,), Newton steps (P,)."""

    w: Tensor
    gradient_norm: Tensor
    status: Tensor
    steps: Tensor


def minimise(problems: Problems, rtol: float, max_steps: int) -> Optima:
    """Minimise (2) from w = 0: converged means |dg(w)| <= max(rtol |dg(0)|, 32 eps sum_i t_i |x_i|), per problem.

    Synchronises with the host once per Newton step and once per trial of a line search.
    """
    batch, _, p = problems.x.shape
    w = problems.x.new_zeros(batch, p)
    m = problems.margins(w)
    gradient = problems.gradient(m, w)
    norm = gradient.norm(dim=-1)
    atol = 32 * EPS * (problems.t * problems.x.norm(dim=-1)).sum(-1)
    tolerance = torch.maximum(rtol * norm, atol)
    status = torch.full((batch,), Status.MAX_STEPS, dtype=torch.int8, device=w.device)
    steps = torch.zeros(batch, dtype=torch.int64, device=w.device)
    for _ in range(max_steps):
        active = ((norm > tolerance) & torch.isfinite(norm) & (status != Status.STAGNATED)).nonzero().squeeze(-1)
        if active.numel() == 0:
            break
        part = problems if active.numel() == batch else problems.take(active)
        w_a, m_a, g_a = w[active], m[active], gradient[active]
        direction = -Factor.at(part, m_a).solve(g_a)
        moved, stuck = _line_search(part, w_a, m_a, g_a, direction)
        m_a = part.margins(moved)
        g_a = part.gradient(m_a, moved)
        w[active], m[active], gradient[active], norm[active] = moved, m_a, g_a, g_a.norm(dim=-1)
        steps[active] += 1
        status[active] = torch.where(stuck, Status.STAGNATED, status[active]).to(torch.int8)
    status = torch.where(norm <= tolerance, Status.CONVERGED, status)
    finite = torch.isfinite(norm)
    status = torch.where(finite, status, Status.NONFINITE)
    return Optima(torch.where(finite[:, None], w, torch.nan), norm, status.to(torch.int8), steps)


def _line_search(
    problems: Problems, w: Tensor, m: Tensor, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """Return w + s * direction with s > 0 per problem, and where no such step was found.

    s = 1 is taken if it decreases g enough (Armijo) or nearly zeroes the slope; else the zero of the slope along the
    line, which is monotone, by Newton inside a bracket. Undamped Newton fails on the hinges (docs/game.md, section 3).
    """
    change = problems.y * times(problems.x, direction)
    first = (gradient * direction).sum(-1)
    start = problems.objective(m, w)
    slack = _SLACK * start.abs()
    s = torch.ones_like(first)
    low, high = torch.zeros_like(s), torch.full_like(s, torch.inf)
    pending = torch.isfinite(first) & (first < 0)
    stuck = ~pending
    for trial in range(_LINE_STEPS):
        w_s = w + s.unsqueeze(-1) * direction
        m_s = m + s.unsqueeze(-1) * change
        rise = problems.objective(m_s, w_s) - start
        row_slope = problems.t * losses.slope(problems.kind, m_s, problems.width)
        ridge = problems.l2 * (w_s * direction).sum(-1)
        along = (row_slope * change).sum(-1) + ridge
        rounding = 8 * EPS * ((row_slope * change).abs().sum(-1) + ridge.abs())
        accepted = (along.abs() <= torch.maximum(-0.1 * first, rounding)) & (rise <= slack)
        if trial == 0:
            accepted |= rise <= _ARMIJO * first
        pending = pending & ~accepted
        if not bool(pending.any()):
            break
        low = torch.where(pending & (along < 0), s, low)
        high = torch.where(pending & (along >= 0), s, high)
        bend = (problems.row_curvature(m_s) * change.square()).sum(-1) + problems.l2 * direction.square().sum(-1)
        trial_s = s - along / bend
        middle = torch.where(torch.isinf(high), 2 * s, (low + high) / 2)
        inside = (trial_s > low) & (trial_s < high) & (trial < _LINE_STEPS // 2)
        s = torch.where(pending, torch.where(inside, trial_s, middle), s)
    # The slope is negative all the way to `low`, so g falls up to there.
    s = torch.where(pending, low, s)
    stuck = stuck | (s == 0)
    return torch.where(stuck.unsqueeze(-1), w, w + s.unsqueeze(-1) * direction), stuck


def times(a: Tensor, v: Tensor) -> Tensor:
    """(P, rows): batched matrix times vector."""
    return (a @ v.unsqueeze(-1)).squeeze(-1)
