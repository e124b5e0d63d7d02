"""The auditor step in batched PyTorch, as an expert would write it without a kernel.

All problems of a chunk take their Newton steps together: the primal with batched Cholesky for n >= p, the dual with
the Gram matrix kept for n < p. Labels are folded into the rows (a_i = y_i x_i), margins follow the step instead of
being computed again, the line search is Newton on the slope, which is monotone and, for the squared hinge, piecewise
linear. Problems that have converged leave the batch. The gradient is written down, equations (7) and (8), and reuses
the last factor where the curvature did not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: Trials of a line search, and the share of the first slope at which it stops.
TRIALS, FLAT = 6, 0.2
MAX_STEPS = 50


@dataclass(frozen=True)
class Follower:
    """The loss by its slope and curvature, the regulariser, and when Newton stops."""

    logistic: bool
    l2: float
    rtol: float

    def slope(self, m: Tensor) -> Tensor:
        """l'(m)."""
        return -torch.sigmoid(-m) if self.logistic else -2 * torch.relu(1 - m)

    def curvature(self, m: Tensor) -> Tensor:
        """l''(m)."""
        if self.logistic:
            s = torch.sigmoid(m)
            return s * (1 - s)
        return 2.0 * (m < 1).to(m.dtype)


def times(a: Tensor, v: Tensor) -> Tensor:
    """Batched matrix times vector."""
    return torch.bmm(a, v.unsqueeze(-1)).squeeze(-1)


def factor(a: Tensor, gram: Tensor | None, c: Tensor, l2: float) -> Tensor:
    """Cholesky of A^T C A + l2 I, or of l2 I + C^1/2 K C^1/2 in the dual form."""
    if gram is None:
        matrix = torch.bmm((a * c.unsqueeze(-1)).mT, a)
    else:
        root = c.sqrt()
        matrix = root.unsqueeze(-1) * gram * root.unsqueeze(-2)
    matrix.diagonal(dim1=-2, dim2=-1).add_(l2)
    return torch.linalg.cholesky_ex(matrix)[0]


def solve(a: Tensor, gram: Tensor | None, c: Tensor, chol: Tensor, v: Tensor, l2: float) -> Tensor:
    """H^-1 v through the factor."""
    if gram is None:
        return torch.cholesky_solve(v.unsqueeze(-1), chol).squeeze(-1)
    root = c.sqrt()
    inner = torch.cholesky_solve((root * times(a, v)).unsqueeze(-1), chol).squeeze(-1)
    return (v - times(a.mT, root * inner)) / l2


def step_length(follower: Follower, m: Tensor, change: Tensor, first: Tensor, wd: Tensor, dd: Tensor) -> Tensor:
    """S > 0 near the zero of the slope of g(w + s d): s = 1, or Newton inside a bracket.

    Eager code waits for the device after each trial: mostly s = 1 is right for all, and then the other trials cost
    nothing. Compiled code makes all trials: a host branch would cut its graph in two.
    """
    n = m.shape[-1]
    s = torch.ones_like(wd)
    low, high = torch.zeros_like(s), torch.full_like(s, torch.inf)
    for _ in range(TRIALS):
        moved = torch.addcmul(m, s.unsqueeze(-1), change)
        along = (follower.slope(moved) * change).sum(-1) / n + follower.l2 * (wd + s * dd)
        if not torch.compiler.is_compiling() and bool((along.abs() <= FLAT * first).all()):
            break
        bend = (follower.curvature(moved) * change.square()).sum(-1) / n + follower.l2 * dd
        low, high = torch.where(along < 0, s, low), torch.where(along < 0, high, s)
        trial = s - along / bend
        middle = torch.where(high.isinf(), 2 * s, (low + high) / 2)
        s = torch.where((trial > low) & (trial < high), trial, middle)
    return s


def newton_step(
    follower: Follower, a: Tensor, gram: Tensor | None, w: Tensor, m: Tensor, g: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One damped step of every problem: (w, m, gradient, the factor that was used, its row curvatures)."""
    n, l2 = a.shape[-2], follower.l2
    c = follower.curvature(m) / n
    chol = factor(a, gram, c, l2)
    direction = -solve(a, gram, c, chol, g, l2)
    change = times(a, direction)
    first, wd, dd = (g * direction).sum(-1).abs(), (w * direction).sum(-1), direction.square().sum(-1)
    s = step_length(follower, m, change, first, wd, dd).unsqueeze(-1)
    w, m = w + s * direction, m + s * change
    return w, m, times(a.mT, follower.slope(m)) / n + l2 * w, chol, c


Step = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]


def minimise(
    follower: Follower, a: Tensor, gram: Tensor | None, step: Step = newton_step, compact: bool = True
) -> tuple[Tensor, Tensor]:
    """Minimise every problem: (w, factor at w). Waits for the device once per step."""
    n, l2 = a.shape[-2], follower.l2
    w = a.new_zeros(a.shape[0], a.shape[2])
    m = a.new_zeros(a.shape[:2])
    g = times(a.mT, follower.slope(m)) / n
    goal = follower.rtol * g.norm(dim=-1)
    size = n if gram is not None else a.shape[2]
    chol, used = a.new_empty(a.shape[0], size, size), torch.full_like(m, torch.nan)
    index, part = None, (a, gram, w, m, g)
    for _ in range(MAX_STEPS):
        new_w, new_m, new_g, new_chol, new_c = step(follower, *part)
        if index is None:
            w, m, g, chol, used = new_w, new_m, new_g, new_chol, new_c
        else:
            w[index], m[index], g[index], chol[index], used[index] = new_w, new_m, new_g, new_chol, new_c
        running = (g.norm(dim=-1) > goal).nonzero().squeeze(-1)
        if running.numel() == 0:
            break
        index = running if compact and running.numel() < a.shape[0] else None
        rows = slice(None) if index is None else index
        part = (a[rows], None if gram is None else gram[rows], w[rows], m[rows], g[rows])
    c = follower.curvature(m) / n
    changed = (c != used).any(-1).nonzero().squeeze(-1)
    if changed.numel():
        chol[changed] = factor(a[changed], None if gram is None else gram[changed], c[changed], l2)
    return w, chol


def gradient_rows(
    follower: Follower, a: Tensor, gram: Tensor | None, y: Tensor, held: Tensor, w: Tensor, chol: Tensor, total: float
) -> tuple[Tensor, Tensor]:
    """Rows of the gradient of the payoff: (training (P, n, d), held out (P, h, d)); a, held are signed rows."""
    n = a.shape[-2]
    m, inside = times(a, w), (times(held[0], w) < 1).to(a.dtype)
    c = follower.curvature(m) / n
    v = times(held[0].mT, inside) / total
    u = solve(a, gram, c, chol, v, follower.l2)
    along_u, along_w = y * follower.slope(m) / n, y * c * times(a, u)
    rows = -(along_u.unsqueeze(-1) * u.unsqueeze(-2) + along_w.unsqueeze(-1) * w.unsqueeze(-2))
    held_rows = (inside * held[1] / total).unsqueeze(-1) * w.unsqueeze(-2)
    return rows[..., :-1], held_rows[..., :-1]
