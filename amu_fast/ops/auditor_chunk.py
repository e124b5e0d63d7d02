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
from amu_fast.ops.newton import Factor, Problems, minimise, times
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
        return cls(
            scores[rows].double(), labels[rows].double(), train[:, rows] & present, held[:, rows] & present
        )

    def solve(self, settings: Settings, normaliser: Tensor, dual: bool, cast: float) -> Solved:
        """Fit, adjoint solve, payoff, gradient rows and bounds of every problem of the chunk."""
        folds, groups, q = self.train.shape
        flat = (folds * groups, q)
        train, held = self.train.reshape(flat), self.held.reshape(flat)
        y = self.y.expand(folds, -1, -1).reshape(flat)
        x = self.x.expand(folds, -1, -1, -1).reshape(*flat, -1)
        used = train | held
        broken = (used & ~torch.isfinite(x).all(-1)).any(-1)
        skipped = _degenerate(y, train, used)
        x = torch.where((used & ~(broken | skipped)[:, None]).unsqueeze(-1), x, 0)
        t = train / train.sum(-1, keepdim=True).clamp_min(1)
        t = torch.where(skipped[:, None], 0, t)
        weight = torch.where(skipped[:, None], 0, held / normaliser)

        moments = Moments.of(x, t) if settings.standardize else None
        if moments is not None:
            x = torch.where(used.unsqueeze(-1), moments.apply(x), 0)
        x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
        problems = Problems(x, y, t, settings.loss, settings.l2, settings.width)
        if dual:
            problems = problems.with_gram()
        optima = minimise(problems, settings.rtol, settings.max_steps)
        w, m = optima.w, problems.margins(optima.w)
        held_out = HeldOut(weight, settings.payoff)
        u, residual = Factor.at(problems, m).solve_refined(held_out.cotangent(problems, m))
        bounds = problem_bounds(problems, held_out, w, u)
        rows = _gradient_rows(problems, held_out, m, w, u, settings.parts)
        row_bounds = bounds.rows
        if moments is not None:
            row_bounds = moments.pull_back_bounds(row_bounds, rows.norm(dim=-1), x[..., :-1], t)
            rows = moments.pull_back(rows, x[..., :-1], t)
        row_bounds = row_bounds + cast * rows.norm(dim=-1)

        payoff = -(weight * losses.payoff_loss(settings.payoff, m)).sum(-1)
        gradient_bound = row_bounds.norm(dim=-1)
        if settings.parts != FULL:
            gradient_bound = torch.full_like(gradient_bound, torch.nan)
        accuracy = ((m > 0) & held).sum(-1) / held.sum(-1)
        bad = broken | ~torch.isfinite(payoff) | ~torch.isfinite(optima.gradient_norm)
        status = torch.where(bad, Status.NONFINITE, optima.status)
        status = torch.where(skipped, Status.SKIPPED, status).to(torch.int8)
        measures = torch.stack(
            [
                accuracy,
                bounds.params,
                bounds.adjoint,
                gradient_bound,
                optima.gradient_norm,
                residual.norm(dim=-1),
            ],
            -1,
        )
        measures = torch.where(bad[:, None], torch.nan, measures)
        measures[..., ACCURACY] = torch.where(skipped, torch.nan, measures[..., ACCURACY])
        measures[..., PARAM_BOUND:] = torch.where(skipped[:, None], 0, measures[..., PARAM_BOUND:])
        rows = torch.where((bad[:, None] & used).unsqueeze(-1), torch.nan, rows)
        shape = (folds, groups)
        return Solved(
            payoff=torch.where(bad, torch.nan, payoff).reshape(shape),
            rows=rows.reshape(*shape, q, -1),
            params=torch.where(bad[:, None], torch.nan, w).reshape(*shape, -1),
            status=status.reshape(shape),
            measures=measures.reshape(*shape, -1),
            counts=torch.stack([bounds.uncertain, optima.steps], -1).reshape(*shape, -1),
        )


def _degenerate(y: Tensor, train: Tensor, used: Tensor) -> Tensor:
    """(P,): a membership cell with fewer than 2 rows, or a training part that lacks one side."""
    member = y > 0
    few = ((used & member).sum(-1) < 2) | ((used & ~member).sum(-1) < 2)
    one_sided = ~(train & member).any(-1) | ~(train & ~member).any(-1)
    return few | one_sided


def _gradient_rows(
    problems: Problems, held_out: HeldOut, m: Tensor, w: Tensor, u: Tensor, parts: int
) -> Tensor:
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
