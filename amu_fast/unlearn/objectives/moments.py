"""Score moment matching, the game's control without a follower, for anybody's training loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from amu_fast.audit.language import sequence_log_likelihood
from amu_fast.audit.scores import ScoreMap
from amu_fast.errors import DataError
from amu_fast.unlearn.methods.moments import moment_gap
from amu_fast.unlearn.objectives.auditing import score_sides
from amu_fast.unlearn.objectives.base import RetainLoss, Summed, Terms, retain_term
from amu_fast.unlearn.objectives.batch import UnlearningBatch


@dataclass(frozen=True)
class ScoreMoments(Summed):
    """NLL of the retain rows + λ · (‖mean z_forget − mean z_validation‖² [+ covariances]), as `ScoreMomentMatching`.

    Args:
        weight: λ >= 0.
        scores: Score map.
        every: An auditing batch at every `every`-th step.
        covariance: Match covariances as well.
        hold_nonmembers: No gradient into the validation rows.
        group: Process group of the ranks; None: all of them.
    """

    weight: float = 1.0
    scores: ScoreMap = sequence_log_likelihood
    every: int = 2
    covariance: bool = False
    hold_nonmembers: bool = True
    group: Any = None
    name: str = "score_moments"

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight < float("inf"):
            raise DataError(f"weight must be >= 0 and finite, got {self.weight}; 0 is fine-tuning")
        if self.every < 1:
            raise DataError(f"every must be >= 1, got {self.every}; 1 audits at each step")

    def needs(self, step: int) -> tuple[str, ...]:
        """All parts at an auditing step, else retain rows."""
        return ("retain",) if step % self.every else ("retain", "forget", "validation")

    def terms(self, model: nn.Module, batch: UnlearningBatch, retain_loss: RetainLoss | None = None) -> Iterator[Terms]:
        """The retain loss; at an auditing step then λ · gap."""
        yield retain_term(model, batch, retain_loss, group=self.group)
        if batch.step % self.every:
            return
        sides = score_sides(
            model, batch, self.scores, gradient=self.weight > 0.0, hold_nonmembers=self.hold_nonmembers
        ).gathered(self.group)
        gap = moment_gap(sides.members, sides.nonmembers, covariance=self.covariance)
        yield Terms(self.weight * gap, {"moment_gap": gap.detach()}, sides.gradient_samples)
