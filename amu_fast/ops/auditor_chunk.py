"""Some groups of an auditor step with all their folds: the reference of what one kernel block does.

Rows are copied once per group; folds are masks over them. Equation numbers are those of docs/game.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amu_fast.ops import losses
from amu_fast.ops.bounds import HeldOut, problem_bounds
from amu_fast.ops.moments import Moments
from amu_fast.ops.newton import Factor, Optima, Problems, minimise, times
from amu_fast.status import Status

FULL, DIRECT, IMPLICIT = 0, 1, 2
ACCURACY, PARAM_BOUND, ADJOINT_BOUND, GRADIENT_BOUND, GRADIENT_NORM, ADJOINT_RESIDUAL = range(6)


@dataclass(frozen=True)
class Settings:
    """What all problems of a step share."""

    loss: int
    l2: float
    width: float
    payoff: int
    standardize: bool
    rtol: float
    max_steps: int
    parts: int


@dataclass(frozen=True)
class Solved:
    """What a chunk returns: the operator's outputs for its groups, rows as (K, groups, rows, d)."""

    payoff: Tensor
    rows: Tensor
    params: Tensor
    status: Tensor
    measures: Tensor
    counts: Tensor

    def finish(self, bad: Tensor, skipped: Tensor, used: Tensor, accuracy: Tensor, shape: tuple[int, int]) -> Solved:
        """NaN in `bad` problems and zeros in `skipped` ones (P,), with P reshaped to (K, groups)."""
        status = torch.where(bad, Status.NONFINITE, self.status)
        measures = torch.where(skipped[:, None], 0, torch.where(bad[:, None], torch.nan, self.measures))
        measures[:, ACCURACY] = torch.where(bad | skipped, torch.nan, accuracy)
        return Solved(
            payoff=torch.where(bad, torch.nan, self.payoff).unflatten(0, shape),
            rows=torch.where((bad[:, None] & used).unsqueeze(-1), torch.nan, self.rows).unflatten(0, shape),
            params=torch.where(bad[:, None], torch.nan, self.params).unflatten(0, shape),
            status=torch.where(skipped, Status.SKIPPED, status).to(torch.int8).unflatten(0, shape),
            measures=measures.unflatten(0, shape),
            counts=self.counts.unflatten(0, shape),
        )


@dataclass(frozen=True)
class Chunk:
    """The rows of some groups, padded: x (g, q, d), y (g, q), train and held (K, g, q)."""

    x: Tensor
    y: Tensor
    train: Tensor
    held: Tensor

    @classmethod
    def gather(
        cls, scores: Tensor, labels: Tensor, train: Tensor, held: Tensor, rows: Tensor, present: Tensor
    ) -> Chunk:
        """Copy each row once; folds are masks."""
        return cls(scores[rows].double(), labels[rows].double(), train[:, rows] & present, held[:, rows] & present)

    def solve(self, settings: Settings, normaliser: Tensor, dual: bool, cast: float) -> Solved:
        """Fit, adjoint solve, payoff, gradient rows and bounds of every problem of the chunk.

        Args:
            settings: What all problems share.
            normaliser: (), N of equation (5).
            dual: Work with Gram matrices.
            cast: Relative error of casting a gradient row to the scores' dtype.
        """
        folds, groups, q = self.train.shape
        train, held = self.train.flatten(0, 1), self.held.flatten(0, 1)
        used = train | held
        y = self.y.expand(folds, -1, -1).reshape(-1, q)
        x = self.x.expand(folds, -1, -1, -1).reshape(folds * groups, q, -1)
        skipped = _degenerate(y, train, used)
        broken = (used & ~torch.isfinite(x).all(-1)).any(-1)
        # Rows that a problem does not use, and problems that cannot be solved, must not reach its arithmetic.
        x = torch.where((used & ~(broken | skipped)[:, None]).unsqueeze(-1), x, 0)
        t = torch.where(skipped[:, None], 0, train.double() / train.sum(-1, keepdim=True).clamp_min(1))
        weight = torch.where(skipped[:, None], 0, held.double() / normaliser)
        moments = Moments.of(x, t) if settings.standardize else None
        if moments is not None:
            x = torch.where(used.unsqueeze(-1), moments.apply(x), 0)
        x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
        problems = Problems(x, y, t, settings.loss, settings.l2, settings.width)
        problems = problems.with_gram() if dual else problems
        optima = minimise(problems, settings.rtol, settings.max_steps)
        solved = _differentiate(problems, HeldOut(weight, settings.payoff), optima, moments, settings, cast)
        bad = broken | ~torch.isfinite(solved.payoff) | ~torch.isfinite(optima.gradient_norm)
        accuracy = ((problems.margins(optima.w) > 0) & held).sum(-1).double() / held.sum(-1)
        return solved.finish(bad, skipped, used, accuracy, (folds, groups))


def _degenerate(y: Tensor, train: Tensor, used: Tensor) -> Tensor:
    """(P,): a membership cell with fewer than 2 rows, or a training part that lacks one side."""
    member = y > 0
    few = ((used & member).sum(-1) < 2) | ((used & ~member).sum(-1) < 2)
    one_sided = ~(train & member).any(-1) | ~(train & ~member).any(-1)
    return few | one_sided


def _gradient_rows(problems: Problems, held_out: HeldOut, m: Tensor, w: Tensor, u: Tensor, parts: int) -> Tensor:
    """(P, q, d): equations (7) and (8), the intercept's entry dropped."""
    along_u = problems.t * problems.y * losses.slope(problems.kind, m, problems.width)
    along_w = problems.row_curvature(m) * times(problems.x, u)
    held = held_out.weight * losses.payoff_slope(held_out.kind, m) * problems.y
    if parts == DIRECT:
        along_u, along_w = torch.zeros_like(along_u), torch.zeros_like(along_w)
    elif parts == IMPLICIT:
        held = torch.zeros_like(held)
    rows = along_u.unsqueeze(-1) * u.unsqueeze(-2) + (along_w + held).unsqueeze(-1) * w.unsqueeze(-2)
    return -rows[..., :-1]


def _differentiate(
    problems: Problems, held_out: HeldOut, optima: Optima, moments: Moments | None, settings: Settings, cast: float
) -> Solved:
    """Payoff, adjoint, gradient rows and bounds at the optima; problems along one dimension (P, ...)."""
    x, w, m = problems.x[..., :-1], optima.w, problems.margins(optima.w)
    u, residual = Factor.at(problems, m).solve_refined(held_out.cotangent(problems, m))
    bounds = problem_bounds(problems, held_out, w, u)
    rows, row_bounds = _gradient_rows(problems, held_out, m, w, u, settings.parts), bounds.rows
    if moments is not None:
        row_bounds = moments.pull_back_bounds(row_bounds, rows.norm(dim=-1), x, problems.t)
        rows = moments.pull_back(rows, x, problems.t)
    gradient_bound = (row_bounds + cast * rows.norm(dim=-1)).norm(dim=-1)
    if settings.parts != FULL:
        gradient_bound = torch.full_like(gradient_bound, torch.nan)
    # Not the negative, which would make a payoff of nothing -0.
    payoff = 0 - (held_out.weight * losses.payoff_loss(held_out.kind, m)).sum(-1)
    nothing = torch.full_like(payoff, torch.nan)
    columns = [nothing, bounds.params, bounds.adjoint, gradient_bound, optima.gradient_norm, residual.norm(dim=-1)]
    counts = torch.stack([bounds.uncertain, optima.steps], -1)
    return Solved(payoff, rows, w, optima.status, torch.stack(columns, -1), counts)
