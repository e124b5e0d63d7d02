"""The leader's side of one auditing step: the gradient of weight · M with respect to the model's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from amu_fast.audit.auditor import Auditor
    from amu_fast.audit.cap import ChanceCap
    from amu_fast.audit.step import Parts, Payoff
    from amu_fast.unlearn.auditing import AuditBatch, AuditRows


class Game:
    """One run's game: auditing rows in, gradient of weight · M out.

    Args:
        rows: Where auditing batches come from.
        auditor: The follower's side.
        weight: α of equation (1), ≥ 0; at 0 the payoff is computed, recorded and charged alike, without a gradient.
        parts: "full" gradient, or one of its two terms, for ablations.
        cap: While it says that the payoff is at chance (S15), no gradient is taken and rows count as forwards.
    """

    def __init__(
        self, rows: AuditRows, auditor: Auditor, weight: float, parts: Parts = "full", cap: ChanceCap | None = None
    ) -> None:
        self._rows, self._auditor, self._weight, self._parts = rows, auditor, weight, parts
        self._cap = cap
        self._batches = 0

    @property
    def pass_cost(self) -> float:
        """Gradient samples of one pass over the forget rows while the game is on."""
        return self.batches_per_pass * self._rows.batch_cost

    @property
    def batches_per_pass(self) -> int:
        """Auditing batches in one pass over the forget rows."""
        return self._rows.members.batches_per_pass

    def descend(self) -> dict[str, Tensor]:
        """Add the gradient of weight · M of the next auditing batch to `.grad`. With a cap, waits for the device.

        Returns:
            payoff, permuted_payoff (with a cap), auditor_accuracy, loss_gap, adjoint_residual, gradient_bound (largest
            over problems) and game_on.
        """
        on = self._cap is None or self._cap.active
        gradient = on and self._weight > 0.0
        batch = self._rows.draw(gradient=gradient, charge_gradient=on)
        payoff = self._payoff(batch)
        value = payoff.value.detach()
        if gradient:
            (self._weight * payoff.value).backward()
        null = {} if self._cap is None else {"permuted_payoff": self._null_payoff(batch)}
        if self._cap is not None:
            self._cap = self._cap.update(float(value), float(null["permuted_payoff"]))
        self._batches += 1
        return {
            "payoff": value,
            **null,
            "auditor_accuracy": payoff.accuracy.nanmean(),
            "loss_gap": batch.loss_gap,
            "adjoint_residual": payoff.residual_norms.max(),
            "gradient_bound": payoff.bounds.gradient_bound.max(),
            "game_on": torch.full_like(value, float(gradient)),
        }

    def _payoff(self, batch: AuditBatch) -> Payoff:
        return self._auditor.payoff(
            batch.member_scores,
            batch.nonmember_scores,
            groups=self._groups(batch),
            step=self._batches,
            parts=self._parts,
        )

    def _null_payoff(self, batch: AuditBatch) -> Tensor:
        """The payoff with labels permuted within each problem: what chance earns on these rows."""
        return self._auditor.payoff(
            batch.member_scores,
            batch.nonmember_scores,
            groups=self._groups(batch),
            step=self._batches,
            permute=True,
            parts="value",
        ).value

    def _groups(self, batch: AuditBatch) -> tuple[Tensor, Tensor] | None:
        """One attack per class if the auditor says so; it pools classes with too few rows itself."""
        return (batch.member_labels, batch.nonmember_labels) if self._auditor.groups == "class" else None
