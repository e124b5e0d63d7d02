"""Some groups of an auditor step with all their folds: the reference of what one kernel block does.

Rows are copied once per group; folds are masks over them. Equation numbers are those of docs/game.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amu_fast.ops import losses
from amu_fast.ops.auditor_rows import directions
from amu_fast.ops.bounds import HeldOut, problem_bounds
from amu_fast.ops.moments import Factors, Moments
from amu_fast.ops.newton import Factor, Optima, Problems, minimise, times
from amu_fast.status import Status

FULL, DIRECT, IMPLICIT, VALUE_ONLY = range(4)
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
    """What a chunk returns: the operator's outputs for its groups; coefficients (K, groups, rows, 3)."""

    payoff: Tensor
    coefficients: Tensor
    directions: Tensor
    params: Tensor
    status: Tensor
    measures: Tensor
    counts: Tensor

    def finish(
        self, bad: Tensor, skipped: Tensor, lost: Tensor, used: Tensor, accuracy: Tensor, shape: tuple[int, int]
    ) -> Solved:
        """NaN in `bad` problems, zeros in `skipped` ones, no gradient in `lost` ones (P,); P becomes (K, groups)."""
        status = torch.where(bad, Status.NONFINITE, self.status)
        measures = torch.where(skipped[:, None], 0, torch.where(bad[:, None], torch.nan, self.measures))
        measures[:, ACCURACY] = torch.where(bad | skipped, torch.nan, accuracy)
        no_rows = lost[:, None] & used
        return Solved(
            payoff=torch.where(bad, torch.nan, self.payoff).unflatten(0, shape),
            coefficients=torch.where(no_rows.unsqueeze(-1), torch.nan, self.coefficients).unflatten(0, shape),
            directions=torch.where(lost[:, None, None], torch.nan, self.directions).unflatten(0, shape),
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
        lost = ~skipped if settings.parts == VALUE_ONLY else bad
        return solved.finish(bad, skipped, lost, used, accuracy, (folds, groups))


def _degenerate(y: Tensor, train: Tensor, used: Tensor) -> Tensor:
    """(P,): a membership cell with fewer than 2 rows, or a training part that lacks one side."""
    member = y > 0
    few = ((used & member).sum(-1) < 2) | ((used & ~member).sum(-1) < 2)
    one_sided = ~(train & member).any(-1) | ~(train & ~member).any(-1)
    return few | one_sided


def _coefficients(problems: Problems, held_out: HeldOut, m: Tensor, u: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Alpha and beta, (P, q) each: equations (7) and (8) are -(alpha_i u + beta_i w), the intercept's entry dropped."""
    alpha = problems.t * problems.y * losses.slope(problems.kind, m, problems.width)
    implicit = problems.row_curvature(m) * times(problems.x, u)
    direct = held_out.weight * losses.payoff_slope(held_out.kind, m) * problems.y
    if parts == DIRECT:
        return torch.zeros_like(alpha), direct
    return alpha, implicit if parts == IMPLICIT else implicit + direct


def _differentiate(
    problems: Problems, held_out: HeldOut, optima: Optima, moments: Moments | None, settings: Settings, cast: float
) -> Solved:
    """Payoff, adjoint, gradient in factors and bounds at the optima; problems along one dimension (P, ...)."""
    x, w, m = problems.x[..., :-1], optima.w, problems.margins(optima.w)
    # Not the negative, which would make a payoff of nothing -0.
    payoff = 0 - (held_out.weight * losses.payoff_loss(held_out.kind, m)).sum(-1)
    nothing = torch.full_like(payoff, torch.nan)
    if settings.parts == VALUE_ONLY:
        return _value_only(payoff, optima, moments, x)
    u, residual = Factor.at(problems, m).solve_refined(held_out.cotangent(problems, m))
    bounds = problem_bounds(problems, held_out, w, u)
    alpha, beta = _coefficients(problems, held_out, m, u, settings.parts)
    factors = Factors(alpha, beta, u[..., :-1], w[..., :-1])
    if moments is None:
        t, vectors = torch.zeros_like(alpha), [factors.u, factors.w]
        row_bounds = bounds.rows + cast * factors.sizes()
    else:
        t, vectors = problems.t, moments.pull_back(factors, x)
        rows = ((t > 0) | (held_out.weight > 0)).sum(-1)
        row_bounds = moments.pull_back_bounds(bounds.rows, factors, vectors, x, t, rows, cast)
    gradient_bound = row_bounds.norm(dim=-1) if settings.parts == FULL else nothing
    columns = [nothing, bounds.params, bounds.adjoint, gradient_bound, optima.gradient_norm, residual.norm(dim=-1)]
    return Solved(
        payoff=payoff,
        coefficients=torch.stack([alpha, beta, t], -1),
        directions=torch.stack(vectors, -2),
        params=w,
        status=optima.status,
        measures=torch.stack(columns, -1),
        counts=torch.stack([bounds.uncertain, optima.steps], -1),
    )


def _value_only(payoff: Tensor, optima: Optima, moments: Moments | None, x: Tensor) -> Solved:
    """The payoff alone: what belongs to a gradient is NaN, so that nobody takes it for one."""
    problems, rows, d = x.shape
    nothing = torch.full_like(payoff, torch.nan)
    columns = [nothing, nothing, nothing, nothing, optima.gradient_norm, nothing]
    return Solved(
        payoff=payoff,
        coefficients=x.new_full((problems, rows, 3), 0),
        directions=x.new_full((problems, directions(moments is not None), d), 0),
        params=optima.w,
        status=optima.status,
        measures=torch.stack(columns, -1),
        counts=torch.stack([torch.zeros_like(optima.steps), optima.steps], -1),
    )
