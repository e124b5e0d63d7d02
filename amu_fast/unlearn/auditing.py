"""The auditing rows of a step: forget rows and validation rows, scored under the same frozen statistics."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from amu_fast.audit.predict import eval_mode
from amu_fast.audit.scores import ModelOutputs, ScoreMap
from amu_fast.errors import DataError
from amu_fast.unlearn.door import class_logits
from amu_fast.unlearn.meter import cost

if TYPE_CHECKING:
    from amu_fast.unlearn.streams import BatchStream
    from amu_fast.unlearn.training import Run

MIN_ROWS = 2


@dataclass(frozen=True)
class AuditBatch:
    """Scores of one auditing batch.

    Args:
        member_scores: (n, d) of forget rows.
        nonmember_scores: (n, d) of V_game rows.
        member_labels: (n,) classes.
        nonmember_labels: (n,) classes.
        loss_gap: Mean cross-entropy of the forget rows minus that of the V_game rows; a scalar without gradient.
    """

    member_scores: Tensor
    nonmember_scores: Tensor
    member_labels: Tensor
    nonmember_labels: Tensor
    loss_gap: Tensor


@dataclass(frozen=True)
class AuditRows:
    """Where a run draws its auditing batches from.

    Both sides go through the network in eval mode, so that batch-norm uses the same frozen statistics for both and
    they move nothing (docs/game.md section 7); every submodule's mode is as before afterwards. Inputs are never
    augmented: augmenting one side would let an auditor tell them apart by augmentation.

    Args:
        run: The run whose model is audited and whose meter is charged.
        members: Distinct forget rows, a batch at a time.
        nonmembers: Distinct V_game rows, as many.
        scores: Score map.
        hold_nonmembers: Non-member rows go forward without gradient and count 1/3.
    """

    run: Run
    members: BatchStream
    nonmembers: BatchStream
    scores: ScoreMap
    hold_nonmembers: bool

    @classmethod
    def of(
        cls, run: Run, scores: ScoreMap, rows_per_side: int, fraction: float, split_seed: int, hold_nonmembers: bool
    ) -> AuditRows:
        """Forget rows against V_game, at most `rows_per_side` each; V_tune is left alone (S16)."""
        game = run.splits.split_validation(split_seed, fraction)[0].with_classes(run.classes)
        forget = run.rows("forget")
        size = min(rows_per_side, len(forget), len(game))
        if size < MIN_ROWS:
            raise DataError(
                f"an auditing batch of {size} rows a side is too small (rows_per_side {rows_per_side}, {len(forget)} "
                f"forget rows, {len(game)} V_game rows); each side needs at least {MIN_ROWS}, better 32"
            )
        members = run.stream("audit_forget", forget, size, distinct=True)
        nonmembers = run.stream("audit_validation", game, size, distinct=True)
        return cls(run, members, nonmembers, scores, hold_nonmembers)

    @property
    def batch_cost(self) -> float:
        """Gradient samples of one batch whose gradient is taken."""
        size = self.members.batch_size
        return cost(size) + cost(size, backward=not self.hold_nonmembers)

    def draw(self, *, gradient: bool, charge_gradient: bool) -> AuditBatch:
        """Score the next batch.

        Args:
            gradient: Keep the graph to the model's weights (of the member side only with `hold_nonmembers`).
            charge_gradient: Charge the batch as if its gradient were taken; else as two forwards.
        """
        member_inputs, member_labels = self.members.next()
        nonmember_inputs, nonmember_labels = self.nonmembers.next()
        self.run.meter.add(len(member_labels), backward=charge_gradient)
        self.run.meter.add(len(nonmember_labels), backward=charge_gradient and not self.hold_nonmembers)
        with eval_mode(self.run.model):
            member = self._logits(member_inputs, gradient)
            nonmember = self._logits(nonmember_inputs, gradient and not self.hold_nonmembers)
        with torch.no_grad():
            gap = functional.cross_entropy(member, member_labels) - functional.cross_entropy(
                nonmember, nonmember_labels
            )
        return AuditBatch(
            self.scores(ModelOutputs(member, member_labels)),
            self.scores(ModelOutputs(nonmember, nonmember_labels)),
            member_labels,
            nonmember_labels,
            gap,
        )

    def _logits(self, inputs: Tensor, gradient: bool) -> Tensor:
        with nullcontext() if gradient else torch.no_grad():
            return class_logits(self.run.model(inputs), len(inputs))
