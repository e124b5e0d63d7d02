"""Score moment matching: the game's control without a follower."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from amu_fast.audit.scores import ScoreMap, confidence
from amu_fast.errors import DataError
from amu_fast.unlearn.auditing import AuditRows
from amu_fast.unlearn.batch_norm import latest_statistics
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.training import Augment, Run, Values

if TYPE_CHECKING:
    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result

_CONSTANT = 1e-6  # relative deviation below which a score column counts as constant, as in equation (S)


@dataclass(frozen=True)
class ScoreMomentMatching:
    """min CE_retain + λ (‖mean z_forget − mean z_game‖² [+ ‖cov z_forget − cov z_game‖²]).

    z = (s − μ)/σ with the mean and deviation of both sides together, held constant in the gradient.

    Source: the follower-free control of docs/game.md section 10: same rows, same score, same schedule as
    `Stackelberg`, but somebody chose the statistic to match.

    Args:
        epochs: Budget in retain-set sizes; auditing rows count too.
        weight: λ ≥ 0, to be tuned.
        scores: Score map.
        covariance: Match covariances as well.
        hold_nonmembers: No gradient into the validation rows, whose forwards then count a third.
        every: An auditing batch at every `every`-th step.
        rows_per_side: Forget rows and V_game rows of an auditing batch, at most.
        game_fraction: Share of the validation rows that is V_game; the rest, V_tune, is never read (S16).
        split_seed: Seed of that cut.
        optimiser: SGD options.
        batch_size: Retain rows a batch.
        augment: Changes retain inputs, `augment(inputs, generator)`.
        callbacks: Called after every step.
    """

    epochs: float = 5.0
    weight: float = 1.0
    scores: ScoreMap = confidence
    covariance: bool = False
    hold_nonmembers: bool = True
    every: int = 2
    rows_per_side: int = 64
    game_fraction: float = 0.5
    split_seed: int = 0
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=0.15, momentum=0.0))
    batch_size: int = 64
    augment: Augment | None = None
    callbacks: tuple[Callback, ...] = ()
    name: str = "score_moment_matching"

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight < float("inf"):
            raise DataError(f"weight must be >= 0 and finite, got {self.weight}; 0 is fine-tuning")
        if self.every < 1:
            raise DataError(f"every must be >= 1, got {self.every}; 1 audits at each step")

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A copy of `model` trained on the retain rows while the two sides' scores are pulled together.

        Raises:
            DataError: Unusable model or splits.
            SolveError: Training diverged.
        """
        run = Run(self, model, splits, seed)
        retain = run.stream("retain", run.rows("retain"))
        run.refresh_at_end(retain)
        rows = AuditRows.of(
            run, self.scores, self.rows_per_side, self.game_fraction, self.split_seed, self.hold_nonmembers
        )

        def gradient() -> Values:
            if run.steps % self.every:
                return run.descend(retain)
            with latest_statistics(run.model):
                return {**run.descend(retain), **self._match(rows)}

        return run.train(lambda: run.update(gradient))

    def _match(self, rows: AuditRows) -> dict[str, Tensor]:
        """Add the gradient of λ · gap of the next auditing batch to `.grad`; weight 0 records the gap only."""
        batch = rows.draw(gradient=self.weight > 0.0, charge_gradient=True)
        gap = moment_gap(batch.member_scores, batch.nonmember_scores, covariance=self.covariance)
        if self.weight > 0.0:
            (self.weight * gap).backward()
        return {"moment_gap": gap.detach(), "loss_gap": batch.loss_gap}


def moment_gap(member: Tensor, nonmember: Tensor, *, covariance: bool = False) -> Tensor:
    """‖mean z_m − mean z_n‖² [+ ‖cov z_m − cov z_n‖²_F], z standardised by pooled, detached moments.

    Args:
        member: (n, d) scores.
        nonmember: (m, d) scores.
        covariance: Add the second term (divisors n and m).

    Returns:
        A scalar, differentiable in the scores. A column without spread adds 0 and gets no gradient.

    >>> rows = torch.tensor([[0.0], [1.0]])
    >>> round(float(moment_gap(rows, rows + 1.0)), 4)
    2.0
    """
    pooled = torch.cat([member, nonmember]).detach()
    mean = pooled.mean(0)
    deviation = pooled.std(0, correction=0)
    constant = deviation <= _CONSTANT * mean.abs().clamp_min(torch.finfo(pooled.dtype).tiny)
    scale = torch.where(constant, 0.0, 1.0 / torch.where(constant, 1.0, deviation))
    z, t = (member - mean) * scale, (nonmember - mean) * scale
    gap = (z.mean(0) - t.mean(0)).square().sum()
    if covariance:
        gap = gap + (_covariance(z) - _covariance(t)).square().sum()
    return gap


def _covariance(z: Tensor) -> Tensor:
    centred = z - z.mean(0)
    return centred.T @ centred / len(z)
