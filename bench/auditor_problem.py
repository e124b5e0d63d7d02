"""P1's problem: scores of a model that remembers a little, groups and folds as the game draws them, and the oracle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from amu_fast.audit import HingePayoff, auditor_step
from amu_fast.audit.folds import draw, generator_of
from amu_fast.bench.cases import AuditorCase
from amu_fast.bench.contender import Verdict
from amu_fast.followers import LinearFollower, Logistic, SquaredHinge
from amu_fast.ops.auditor_chunk import FULL
from amu_fast.ops.auditor_rows import auditor_rows
from amu_fast.ops.auditor_step import UNCERTAIN_ROWS
from amu_fast.ops.auditor_step import auditor_step as auditor_step_operator
from amu_fast.ops.losses import HINGE_PAYOFF

TOLERANCE = 1e-4
#: The members' mean differs by this much of a deviation: an attack of about AUC .7 at 11 scores.
SHIFT = 0.25
LISTED = 5


@dataclass(frozen=True)
class AuditorProblem:
    """All tensors of a case on a device; problems are numbered fold by fold, group by group.

    Attributes:
        scores: sets of (N, d) float32.
        labels: (N,) +1 or -1.
        groups: (N,) int64.
        train_masks: (K, N) bool.
        train: (P, n) row numbers; held: (P, h).
    """

    case: AuditorCase
    scores: tuple[Tensor, ...]
    labels: Tensor
    groups: Tensor
    train_masks: Tensor
    train: Tensor
    held: Tensor

    @cached_property
    def held_out_masks(self) -> Tensor:
        """(K, N) bool."""
        return ~self.train_masks

    @cached_property
    def normaliser(self) -> Tensor:
        """() float64, the rows."""
        return torch.tensor(float(len(self.labels)), dtype=torch.float64, device=self.device)

    @staticmethod
    def of(case: AuditorCase, device: torch.device) -> AuditorProblem:
        """Draw scores and folds; the same on every machine."""
        rows = case.groups * 2 * case.per_side
        labels = torch.tensor([1, -1]).repeat(rows // 2)
        groups = torch.arange(case.groups).repeat_interleave(2 * case.per_side)
        plan = draw(labels, groups, case.folds, generator_of(0, 0))
        problems = case.folds * case.groups
        train, held = (
            (mask.nonzero()[:, 1].reshape(problems, -1).to(device)) for mask in (plan.train_masks, plan.held_out_masks)
        )
        sets = tuple(_scores(labels, case.columns, seed).to(device) for seed in range(case.sets))
        return AuditorProblem(
            case, sets, labels.to(device), groups.to(device), plan.train_masks.to(device), train, held
        )

    @property
    def device(self) -> torch.device:
        """Where everything is."""
        return self.labels.device

    @property
    def total(self) -> float:
        """N of equation (5)."""
        return float(self.labels.numel())

    @property
    def y(self) -> Tensor:
        """(P, n) labels of the training rows."""
        return self.labels[self.train]

    @property
    def z(self) -> Tensor:
        """(P, h) labels of the held-out rows."""
        return self.labels[self.held]

    @property
    def follower(self) -> LinearFollower:
        """The attack, with the library's default tolerance."""
        return Logistic(l2=self.case.l2) if self.case.loss == "logistic" else SquaredHinge(l2=self.case.l2)

    def first(self, groups: int | None) -> AuditorProblem:
        """The problems of the first groups, N unchanged in their number of rows only."""
        if groups is None or groups >= self.case.groups:
            return self
        rows = groups * 2 * self.case.per_side
        chosen = torch.arange(self.train.shape[0], device=self.device).reshape(self.case.folds, -1)[:, :groups]
        return AuditorProblem(
            case=replace(self.case, groups=groups),
            scores=tuple(s[:rows] for s in self.scores),
            labels=self.labels[:rows],
            groups=self.groups[:rows],
            train_masks=self.train_masks[:, :rows],
            train=self.train[chosen.flatten()],
            held=self.held[chosen.flatten()],
        )

    @cached_property
    def oracle(self) -> tuple[Tensor, Tensor, Tensor]:
        """The reference on the first scores, in float64 at rtol 1e-14: what is checked against it.

        Returns gradients of the training rows (P, n, d) and of the held-out rows (P, h, d) of the checked groups'
        problems, and where a problem has an uncertain row (P,).
        """
        part, follower = self.first(self.case.checked_groups), self.follower
        total = torch.full((), part.total, dtype=torch.float64, device=self.device)
        step = auditor_step_operator.reference(
            part.scores[0].double(), part.labels, part.groups, part.train_masks, ~part.train_masks, total,
            part.case.groups, follower.kind, follower.l2, follower.width, HINGE_PAYOFF, part.case.standardize,
            1e-14, follower.max_steps, 0,
        )  # fmt: skip
        *_, counts, coefficients, directions = step
        folds = part.case.folds
        one_fold = torch.eye(folds, dtype=torch.float64, device=self.device)[:, :, None].expand(
            -1, -1, part.case.groups
        )
        rows = torch.stack(
            [
                auditor_rows.reference(cotangents, part.scores[0].double(), part.groups, coefficients, directions)
                for cotangents in one_fold
            ]
        )
        return (*part.rows_of(rows), counts[..., UNCERTAIN_ROWS].flatten() > 0)

    def rows_of(self, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients per fold (K, N, d) as rows of problems: (P, n, d), (P, h, d)."""
        fold = torch.arange(self.case.folds, device=self.device).repeat_interleave(self.case.groups)[:, None]
        return gradients[fold, self.train], gradients[fold, self.held]

    def judge(self, rows: tuple[Tensor, Tensor], groups: int) -> Verdict:
        """Worst relative error of a problem's gradient against the oracle, problems with uncertain rows apart.

        Args:
            rows: of problems of the first `groups` groups, as from `rows_of`.
            groups: how many groups the contender solved.
        """
        *exact, uncertain = self.oracle
        checked = min(groups, self.case.checked_groups or self.case.groups)
        scale = self.total_of(self.case.checked_groups) / self.total_of(groups)
        squares = []
        for mine, true in zip(rows, exact, strict=True):
            mine, true = (_some(t.double(), self.case.folds, checked) for t in (mine, true))
            squares.append(torch.stack([(mine / scale - true).square().sum((-2, -1)), true.square().sum((-2, -1))]))
        error, size = torch.stack(squares).sum(0).sqrt()
        # A problem whose held-out rows all lie beyond the hinge has gradient 0, which is then exact.
        relative = torch.where(size > 0, error / size, error)
        left_out = _some(uncertain, self.case.folds, checked)
        numbers = left_out.nonzero().squeeze(-1).tolist()
        kept = relative[~left_out]
        worst = float(kept.max()) if kept.numel() and bool(kept.isfinite().all()) else float("nan")
        listed = ", ".join(map(str, numbers[:LISTED])) + (", ..." if len(numbers) > LISTED else "")
        notes = f"{kept.numel()} problems checked, {len(numbers)} with uncertain rows" + (
            (numbers and f" ({listed})") or ""
        )
        return Verdict(worst, TOLERANCE, notes, units=self.case.folds * groups)

    def total_of(self, groups: int | None) -> float:
        """N when only the first groups take part."""
        return float((groups or self.case.groups) * 2 * self.case.per_side)


def _some(values: Tensor, folds: int, groups: int) -> Tensor:
    """The first groups of every fold, of values whose first dimension is problems."""
    return values.unflatten(0, (folds, -1))[:, :groups].flatten(0, 1)


def _scores(labels: Tensor, columns: int, seed: int) -> Tensor:
    """Correlated columns of unequal scale, members shifted along a fixed direction."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5 + torch.eye(columns)
    noise = torch.randn(labels.numel(), columns, generator=generator) @ mixing
    direction = torch.randn(columns, generator=generator)
    return noise + SHIFT * labels[:, None] * direction


def ours(problem: AuditorProblem, set_number: int, fold: int | None = None) -> Tensor:
    """(N, d) gradient of the payoff through the public API; of one fold's, or of all of them."""
    case = problem.case
    scores = problem.scores[set_number % len(problem.scores)].detach().requires_grad_()
    step = auditor_step(
        scores,
        problem.labels,
        follower=problem.follower,
        groups=problem.groups,
        num_groups=case.groups,
        train_masks=problem.train_masks,
        payoff=HingePayoff(),
        standardize=case.standardize,
    )
    (step.value if fold is None else step.per_problem[fold].sum()).backward()
    assert scores.grad is not None
    return scores.grad


def operators(problem: AuditorProblem, set_number: int) -> Tensor:
    """(N, d) gradient of the payoff by the operators `auditor_step` and `auditor_rows`."""
    case, follower = problem.case, problem.follower
    scores = problem.scores[set_number % len(problem.scores)]
    per_problem, *_, coefficients, directions = auditor_step_operator.bare(
        scores, problem.labels, problem.groups, problem.train_masks, problem.held_out_masks, problem.normaliser,
        case.groups, follower.kind, follower.l2, follower.width, HINGE_PAYOFF, case.standardize,
        follower.rtol, follower.max_steps, FULL,
    )  # fmt: skip
    return auditor_rows.bare(torch.ones_like(per_problem), scores, problem.groups, coefficients, directions)


def newton_steps(problem: AuditorProblem) -> float:
    """Mean Newton steps of a problem of ours."""
    step = auditor_step(
        problem.scores[0],
        problem.labels,
        follower=problem.follower,
        groups=problem.groups,
        num_groups=problem.case.groups,
        train_masks=problem.train_masks,
        standardize=problem.case.standardize,
    )
    return float(step.steps.double().mean())
