"""The auditor's step for neural followers: as `auditor_step`, one problem after the other, by autograd.

Of each (group, fold) attack: training rows standardised with their moments differentiated, the attack trained, the
adjoint system solved, and the payoff's total derivative taken in the forward pass. No bounds: none is known without
strong convexity (docs/game.md, section 5), so the residuals are reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amu_fast.audit.step import Bounds, HingePayoff, LogisticPayoff, Parts, Payoff
from amu_fast.errors import SolveError
from amu_fast.followers import NeuralFollower
from amu_fast.linalg import Cholesky, ConjugateGradient
from amu_fast.ops import losses
from amu_fast.status import Status

# Up to this many parameters the adjoint system is solved directly.
_DIRECT = 1024
_CONSTANT, _TINY = 1e-6, 2.0**-1022


def neural_step(
    scores: Tensor,
    labels: Tensor,
    *,
    follower: NeuralFollower,
    groups: Tensor,
    num_groups: int,
    train_masks: Tensor,
    held_out_masks: Tensor,
    payoff: HingePayoff | LogisticPayoff,
    standardize: bool,
    normaliser: float,
    parts: Parts = "full",
) -> Payoff:
    """Train every (group, fold) attack and judge it on its held-out rows. Waits for the device.

    Args:
        scores: (N, d) floating; the gradient flows here.
        labels: (N,) +1 (member) or -1 (non-member).
        follower: The attack.
        groups: (N,) int64, one attack per group; -1 leaves a row out.
        num_groups: G.
        train_masks: (K, N) bool, the rows each fold trains on.
        held_out_masks: (K, N) bool, the rows it is judged on.
        payoff: Hinge or logistic.
        standardize: Standardise each problem by its training rows, with the moments differentiated.
        normaliser: N of equation (5).
        parts: As in `auditor_step`.

    Returns:
        Payoff; bounds are NaN and uncertain rows -1, `params` (K, G, p) are the networks' parameters, residual norms
        are those of the damped adjoint system.

    Source: equations (2), (5), (6) and the general form of docs/game.md, section 6.
    """
    rows, y = scores.detach().double(), labels.double()
    judge = _Judge(follower, payoff.kind, standardize, normaliser, parts)
    solved = []
    for train, held in zip(train_masks, held_out_masks, strict=True):
        for g in range(num_groups):
            mine = groups == g
            solved.append(judge.problem(rows, y, train & mine, held & mine))
    shape = (len(train_masks), num_groups)
    # Groups share no row: one gradient row per fold and row.
    gradient = torch.stack([s.gradient for s in solved]).unflatten(0, shape).sum(1)

    def stacked(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
        values = [torch.as_tensor(getattr(s, name), dtype=dtype, device=scores.device) for s in solved]
        return torch.stack(values).unflatten(0, shape)

    nothing = stacked("value").new_full(shape, torch.nan)
    return Payoff(
        per_problem=_Stored.apply(rows if parts == "value" else scores, stacked("value"), gradient, groups),
        params=stacked("params"),
        status=stacked("status", torch.int8),
        accuracy=stacked("accuracy"),
        bounds=Bounds(nothing, nothing, nothing, torch.full(shape, -1, device=scores.device)),
        gradient_norms=stacked("gradient_norm"),
        residual_norms=stacked("residual_norm"),
        steps=stacked("steps", torch.int64),
    )


@dataclass(frozen=True, eq=False)
class _Solved:
    """One problem's outcome; gradient (N, d) of its payoff in all rows."""

    value: Tensor | float
    gradient: Tensor
    params: Tensor
    status: int
    accuracy: Tensor | float = torch.nan
    gradient_norm: Tensor | float = 0.0
    residual_norm: Tensor | float = 0.0
    steps: Tensor | int = 0


@dataclass(frozen=True)
class _Judge:
    """What all problems of a step share."""

    follower: NeuralFollower
    payoff: int
    standardize: bool
    normaliser: float
    parts: Parts

    def problem(self, rows: Tensor, y: Tensor, train: Tensor, held: Tensor) -> _Solved:
        """One attack on the rows (N, d) of its masks (N,)."""
        nothing = torch.zeros_like(rows)
        lost = rows.new_full((self.follower.size(rows.shape[1]),), torch.nan)
        used = train | held
        if _degenerate(y, train, used):
            return _Solved(0.0, nothing, torch.zeros_like(lost), Status.SKIPPED)
        if not bool(rows[used].isfinite().all()):
            unknown = torch.where(used[:, None], torch.nan, nothing)
            return _Solved(torch.nan, unknown, lost, Status.NONFINITE, torch.nan, torch.nan, torch.nan)
        with torch.enable_grad():
            leaf = rows.clone().requires_grad_()
            inner, outer = leaf[train], leaf[held]
            if self.standardize:
                inner, outer = standardised(inner, outer)
        fit = self.follower.fit(inner, y[train])
        status, w = int(fit.status), fit.value
        with torch.enable_grad():
            w.requires_grad_()
            m = y[held] * self.follower.score(w, outer if self.parts in ("full", "direct") else outer.detach())
            value = 0 - losses.payoff_loss(self.payoff, m).sum() / self.normaliser
        accuracy = (m.detach() > 0).double().mean() if len(m) else torch.nan
        gradient, residual = nothing, torch.full_like(fit.residual_norms, torch.nan)
        if self.parts != "value":
            gradient, residual, adjoint = self.gradient(value, w, leaf, inner, y[train])
            status = adjoint if status == Status.CONVERGED else status
        return _Solved(value.detach(), gradient, w.detach(), status, accuracy, fit.residual_norms, residual, fit.steps)

    def gradient(self, value: Tensor, w: Tensor, leaf: Tensor, inner: Tensor, y: Tensor) -> tuple[Tensor, Tensor, int]:
        """The payoff's derivative in all rows, the residual of the adjoint system, and that solve's status."""
        v, direct = torch.autograd.grad(value, (w, leaf), retain_graph=True, allow_unused=True, materialize_grads=True)
        solver = Cholesky() if len(w) <= _DIRECT else ConjugateGradient(rtol=1e-8)
        solution = solver.solve(self.follower.hessian(w.detach(), inner, y), v)
        if self.parts == "direct":
            return direct, solution.residual_norms, int(solution.status)
        (rows, _) = self.follower.mixed_vjp(w.detach(), solution.value, inner, y)
        (implicit,) = torch.autograd.grad(inner, leaf, rows)
        return direct + implicit, solution.residual_norms, int(solution.status)


def standardised(train: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of both parts by the mean and deviation (divisor n) of the training rows; constant columns are 0."""
    mean = train.mean(0)
    centred = train - mean
    unit = centred.detach().abs().amax(0).clamp_min(_TINY)
    # a constant column's root has no derivative
    variance = (centred / unit).square().mean(0)
    constant = unit * variance.detach().sqrt() <= _CONSTANT * mean.detach().abs().clamp_min(_TINY)
    deviation = unit * torch.where(constant, 1.0, variance).sqrt()
    return torch.where(constant, 0.0, centred / deviation), torch.where(constant, 0.0, (held - mean) / deviation)


def _degenerate(y: Tensor, train: Tensor, used: Tensor) -> bool:
    """A membership cell with fewer than 2 rows, or a training part that lacks one side."""
    sides = (y > 0, y < 0)
    return any(int((used & side).sum()) < 2 or not bool((train & side).any()) for side in sides)


class _Stored(torch.autograd.Function):
    """per_problem (K, G) with the gradient rows (K, N, d) that were found beside it."""

    @staticmethod
    def forward(scores: Tensor, per_problem: Tensor, gradient: Tensor, groups: Tensor) -> Tensor:
        return per_problem.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], *inputs[2:])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        return _Pulled.apply(cotangent, *ctx.saved_tensors), None, None, None


class _Pulled(torch.autograd.Function):
    """The gradient as a node of its own, so that a second differentiation raises instead of losing a term."""

    @staticmethod
    def forward(cotangent: Tensor, scores: Tensor, gradient: Tensor, groups: Tensor) -> Tensor:
        weight = torch.where(groups >= 0, cotangent[:, groups.clamp_min(0)], 0.0)
        # a row without gradient gets none, whatever the cotangent
        return torch.where(gradient == 0, 0.0, weight[..., None] * gradient).sum(0).to(scores.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise SolveError("the auditor's payoff is differentiable once; detach its gradient")
