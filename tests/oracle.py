"""Dense reference of one auditor step, from docs/game.md alone: one problem at a time, loops, no torch.

`auditor_step` does in slow, plain numpy what the library does fast: solve problem (2) of every (fold, group),
evaluate the payoff (5), solve the adjoint system (6), write the gradient rows (7), (8), through (S) if asked.
The arithmetic is `dtype`'s, by default wider than float64 where the machine has it: see `oracle_follower`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from oracle_follower import WIDE, Follower, optimum, payoff_slope, payoff_value, solve

__all__ = [
    "WIDE",
    "Follower",
    "Solved",
    "Step",
    "auditor_step",
    "gradients",
    "optimum",
    "row_gradients",
    "solve_problem",
]

SMALLEST_NORMAL = np.finfo(np.float64).tiny


def moments(rows):
    """Mean and deviation (divisor n) per column; the deviation of a constant column is given as infinity."""
    mean = rows.mean(axis=0)
    sd = np.sqrt(((rows - mean) ** 2).mean(axis=0))
    constant = sd <= 1e-6 * np.maximum(np.abs(mean), SMALLEST_NORMAL)
    return mean, np.where(constant, np.inf, sd)


def with_intercept(x):
    """[x, 1]."""
    return np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)


@dataclass(frozen=True)
class Solved:
    """One problem: x (n, p) and h (n_h, p) are rows as the follower sees them, with intercept."""

    follower: Follower
    payoff_kind: str
    normaliser: float
    x: np.ndarray
    y: np.ndarray
    h: np.ndarray
    z: np.ndarray
    sd: np.ndarray | None
    w: np.ndarray
    u: np.ndarray
    v: np.ndarray
    payoff: float
    train_rows: np.ndarray
    held_rows: np.ndarray

    @property
    def margins(self):
        """Margins of the training and of the held-out rows."""
        return self.y * (self.x @ self.w), self.z * (self.h @ self.w)

    def kink_distance(self):
        """Smallest change of a margin that would move a row across a kink; infinite without kinks."""
        train, held = self.margins
        gaps = [np.inf]
        if self.follower.loss != "logistic":
            gaps += list(np.abs(1 - train))
        if self.follower.loss == "huberised_hinge":
            gaps += list(np.abs(1 - self.follower.width - train))
        if self.payoff_kind == "hinge":
            gaps += list(np.abs(1 - held))
        return float(min(gaps))


def row_gradients(follower, x, y, w, u):
    """∂⟨w*, v⟩/∂x_i of the training rows for H u = v: equation (7), intercept's entry kept."""
    m, along = y * (x @ w), x @ u
    return -(np.outer(y * follower.slope(m), u) + np.outer(follower.curvature(m) * along, w)) / len(y)


def through_moments(gradient, held_gradient, x, held, sd):
    """Equation (S): gradients of standardised rows to gradients of the scores, moments differentiated."""
    a = gradient.sum(axis=0) + held_gradient.sum(axis=0)
    b = (gradient * x).sum(axis=0) + (held_gradient * held).sum(axis=0)
    return (gradient - (a + x * b) / len(x)) / sd, held_gradient / sd


def solve_problem(train, y, held, z, follower, payoff, standardize, normaliser, rows, dtype=np.longdouble):
    """Solve one problem from its raw score rows; `rows` are the indices of both parts in the batch."""
    train, held, y, z = (np.asarray(part).astype(dtype) for part in (train, held, y, z))
    sd = None
    if standardize:
        mean, sd = moments(train)
        train, held = (train - mean) / sd, (held - mean) / sd
    x, h = with_intercept(train), with_intercept(held)
    w = optimum(follower, x, y, dtype)
    m = z * (h @ w)
    v = -(h.T @ (payoff_slope(payoff, m) * z)) / dtype(normaliser)
    u = solve(follower, x, y, w, v, dtype) if np.any(v) else np.zeros_like(w)
    value = -payoff_value(payoff, m).sum() / dtype(normaliser)
    return Solved(follower, payoff, normaliser, x, y, h, z, sd, w, u, v, value, *rows)


def gradients(problem):
    """∂M/∂s of the training and of the held-out rows of a solved problem: (7), (8), then (S)."""
    train = row_gradients(problem.follower, problem.x, problem.y, problem.w, problem.u)[:, :-1]
    _, m = problem.margins
    share = payoff_slope(problem.payoff_kind, m) * problem.z / problem.w.dtype.type(problem.normaliser)
    held = -np.outer(share, problem.w)[:, :-1]
    if problem.sd is None:
        return train, held
    return through_moments(train, held, problem.x[:, :-1], problem.h[:, :-1], problem.sd)


@dataclass(frozen=True)
class Step:
    """Result of `auditor_step`: per problem (K, G, ...), gradients of Σ_g per_problem[k] (K, N, d)."""

    per_problem: np.ndarray
    params: np.ndarray
    accuracy: np.ndarray
    skipped: np.ndarray
    gradients: np.ndarray
    problems: dict[tuple[int, int], Solved]

    @property
    def gradient(self):
        """∂M/∂scores (N, d) of the sum over all problems."""
        return self.gradients.sum(axis=0)

    def near_kink(self, slack):
        """Problems (k, g) with a row whose margin is within `slack` of a kink: their gradient may jump."""
        return [key for key, problem in self.problems.items() if problem.kink_distance() <= slack]


def is_skipped(labels, train, held):
    """Whether a problem has too few rows: a membership cell with < 2 rows, or none to train on."""
    cells = [(labels == side) & (train | held) for side in (-1, 1)]
    return min(cell.sum() for cell in cells) < 2 or min((cell & train).sum() for cell in cells) < 1


def auditor_step(
    scores, labels, *, follower, train_masks, held_out_masks=None, groups=None, num_groups=None,
    payoff="hinge", standardize=False, normaliser=None, dtype=np.longdouble,
):  # fmt: skip
    """Every (fold, group) problem: scores (N, d), labels (N,) ±1, masks (K, N), groups (N,) or None."""
    groups = np.zeros(len(labels), np.int64) if groups is None else groups
    num_groups = int(groups.max()) + 1 if num_groups is None else num_groups
    held_out_masks = ~train_masks if held_out_masks is None else held_out_masks
    normaliser = int((groups >= 0).sum()) if normaliser is None else normaliser
    shape, d = (len(train_masks), num_groups), scores.shape[1]
    values, params = np.zeros(shape, dtype), np.zeros((*shape, d + 1), dtype)
    slopes = np.zeros((shape[0], *scores.shape), dtype)
    accuracy, skipped, problems = np.full(shape, np.nan), np.zeros(shape, bool), {}
    for k, g in np.ndindex(shape):
        train, held = train_masks[k] & (groups == g), held_out_masks[k] & (groups == g)
        if is_skipped(labels, train, held):
            skipped[k, g] = True
            continue
        rows = np.flatnonzero(train), np.flatnonzero(held)
        parts = [part[index] for index in rows for part in (scores, labels)]
        problem = solve_problem(*parts, follower, payoff, standardize, normaliser, rows, dtype)
        problems[k, g], values[k, g], params[k, g] = problem, problem.payoff, problem.w
        for index, rows_gradient in zip(rows, gradients(problem), strict=True):
            slopes[k, index] += rows_gradient
        if held.any():
            accuracy[k, g] = np.mean(problem.margins[1] > 0)
    return Step(values, params, accuracy, skipped, slopes, problems)
