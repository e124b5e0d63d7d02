"""How P1's contenders are called: gather the rows of their problems, solve, add the gradient rows to their scores.

A contender gets what a user of it would keep from step to step (row numbers, labels, masks) and pays for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amu_fast.bench.auditor_problem import AuditorProblem, operators, ours
from amu_fast.bench.contender import Verdict

#: (rows (P, n, d), labels (P, n), held-out rows (P, h, d), labels (P, h)) -> gradients of both.
Solver = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class RowCall:
    """A solver of batches of problems as a call.

    Args:
        problem: what to solve; the contender's own groups only.
        solver: of one batch of problems.
        dtype: of the rows that it gets.
        chunk: most problems of a batch.
    """

    problem: AuditorProblem
    solver: Solver
    dtype: torch.dtype = torch.float64
    chunk: int = 10**9

    def __call__(self, number: int) -> Tensor:
        """(N, d) gradient of the payoff for one set of scores."""
        problem = self.problem
        scores = problem.scores[number % len(problem.scores)]
        out = torch.zeros_like(scores)
        for train, held, y, z in self._batches(problem):
            for index, rows in zip((train, held), self._solve(scores, train, held, y, z), strict=True):
                out.index_add_(0, index.flatten(), rows.flatten(0, 1).to(out.dtype))
        return out

    def judge(self, whole: AuditorProblem) -> Verdict:
        """Against the oracle of the whole case; only problems that it knows are solved for this."""
        scores, part = self.problem.scores[0], self.problem.first(whole.case.checked_groups)
        parts = [self._solve(scores, *batch) for batch in self._batches(part)]
        train, held = (torch.cat([rows[side].to(scores.dtype) for rows in parts]) for side in (0, 1))
        return whole.judge((train, held), self.problem.case.groups)

    def _batches(self, p: AuditorProblem) -> list[tuple[Tensor, ...]]:
        return list(zip(*(t.split(self.chunk) for t in (p.train, p.held, p.y, p.z)), strict=True))

    def _solve(self, scores: Tensor, train: Tensor, held: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        x, h = scores[train].to(self.dtype), scores[held].to(self.dtype)
        return self.solver(x, y.to(self.dtype), h, z.to(self.dtype))


@dataclass(frozen=True)
class OurCall:
    """The public API as a call: checks, the step, its results, autograd."""

    problem: AuditorProblem

    def __call__(self, number: int) -> Tensor:
        """(N, d) gradient of the payoff for one set of scores."""
        return ours(self.problem, number)

    def judge(self, whole: AuditorProblem) -> Verdict:
        """Against the oracle of the whole case; the folds of the checked groups apart from each other."""
        part = whole.first(whole.case.checked_groups)
        gradients = torch.stack([ours(part, 0, fold) for fold in range(part.case.folds)])
        verdict = whole.judge(part.rows_of(gradients), part.case.groups)
        return replace(verdict, units=self.problem.case.folds * self.problem.case.groups)


@dataclass(frozen=True)
class OperatorCall(OurCall):
    """The two operators below the API, as a peer is called: without checks of values and without autograd."""

    def __call__(self, number: int) -> Tensor:
        """(N, d) gradient of the payoff for one set of scores."""
        return operators(self.problem, number)

    def judge(self, whole: AuditorProblem) -> Verdict:
        """The same numbers as the API's, which the oracle judges."""
        if not torch.equal(self(0), ours(self.problem, 0)):
            return Verdict(float("nan"), float("nan"), "the operators' gradient is not the API's")
        return super().judge(whole)


@dataclass(frozen=True)
class FitCall:
    """A contender that only fits, one problem after another: its time is the fit's, and there is no gradient."""

    problem: AuditorProblem
    fit: Callable[[Tensor, Tensor], object]

    def __call__(self, number: int) -> None:
        """Fit every problem of one set of scores."""
        p = self.problem
        scores = p.scores[number % len(p.scores)]
        for rows, y in zip(scores[p.train].double(), p.y, strict=True):
            self.fit(rows, y)


def with_autograd(payoff: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Solver:
    """A solver from a differentiable payoff of rows: (x, y, held, z) -> scalar."""

    def solver(x: Tensor, y: Tensor, held: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        x, held = x.detach().requires_grad_(), held.detach().requires_grad_()
        train_rows, held_rows = torch.autograd.grad(payoff(x, y, held, z), (x, held))
        return train_rows, held_rows

    return solver


def hinge_payoff(w: Tensor, held: Tensor, z: Tensor, total: float) -> Tensor:
    """Equation (5) for attacks w (P, p) on held-out rows (P, h, d)."""
    m = z * ((held @ w[:, :-1, None]).squeeze(-1) + w[:, -1:])
    return -torch.relu(1 - m).sum() / total
