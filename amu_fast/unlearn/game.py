"""The leader's side of one auditing step: the gradient of weight · M with respect to the model's weights."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.auditor import Auditor
    from amu_fast.audit.bank import MemoryBank
    from amu_fast.audit.cap import ChanceCap
    from amu_fast.audit.ensemble import EnsembleAuditor
    from amu_fast.audit.step import Parts
    from amu_fast.unlearn.auditing import AuditRows

Pair = tuple[Tensor, Tensor]


class Leader:
    """The state of one game: scores of an auditing batch in, the term weight · M of the leader's loss out.

    Mutable: it counts auditing steps (which fix the folds), moves the cap and fills the bank. Whoever gives it the same
    scores in the same order gets the same terms, on every rank.

    Args:
        auditor: The follower's side.
        weight: α of equation (1), ≥ 0; at 0 the payoff is computed and recorded alike, without a gradient.
        parts: "full" gradient, or one of its two terms, for ablations.
        cap: While it says that the payoff is at chance (S15), no gradient is taken.
        bank: Rows of earlier auditing steps for the auditor to train on as well.

    Raises:
        DataError: weight is negative or not finite.

    >>> from amu_fast.audit.auditor import Auditor
    >>> leader = Leader(Auditor(), weight=5.0)
    >>> term, values = leader.term(torch.randn(40, 1, requires_grad=True), torch.randn(40, 1))
    >>> term.requires_grad, leader.steps
    (True, 1)
    """

    def __init__(
        self,
        auditor: Auditor | EnsembleAuditor,
        weight: float,
        *,
        parts: Parts = "full",
        cap: ChanceCap | None = None,
        bank: MemoryBank | None = None,
    ) -> None:
        if not 0.0 <= weight < float("inf"):
            raise DataError(f"weight must be >= 0 and finite, got {weight}; 0 runs the control without the game")
        self.auditor, self.weight, self.parts, self.cap, self.bank = auditor, weight, parts, cap, bank
        self.steps = 0

    @property
    def on(self) -> bool:
        """Whether the cap lets the next step play."""
        return self.cap is None or self.cap.active

    @property
    def takes_gradient(self) -> bool:
        """Whether the next term has a gradient."""
        return self.on and self.weight > 0.0

    def term(
        self, members: Tensor, nonmembers: Tensor, *, groups: Pair | None = None, clusters: Pair | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Play one auditing step. With a cap, waits for the device.

        Args:
            members: (n, d) scores of forget rows.
            nonmembers: (m, d) scores of validation rows.
            groups: Group of each row of either side.
            clusters: Person of each row of either side.

        Returns:
            weight · M, with a gradient if `takes_gradient` was True; and payoff, permuted_payoff (with a cap),
            auditor_accuracy, adjoint_residual, gradient_bound (largest over problems) and game_on.
        """
        gradient = self.takes_gradient
        pairs: dict[str, Any] = {"groups": groups, "clusters": clusters}
        payoff = self.auditor.payoff(members, nonmembers, bank=self.bank, step=self.steps, parts=self.parts, **pairs)
        value = payoff.value.detach()
        null: dict[str, Tensor] = {}
        if self.cap is not None:
            # what chance earns on these rows: labels permuted within each problem
            null["permuted_payoff"] = self.auditor.payoff(
                members, nonmembers, bank=self.bank, step=self.steps, permute=True, parts="value", **pairs
            ).value
            self.cap = self.cap.update(float(value), float(null["permuted_payoff"]))
        if self.bank is not None:
            self.bank.add(members, nonmembers, **pairs)
        self.steps += 1
        return self.weight * (payoff.value if gradient else value), {
            "payoff": value,
            **null,
            "auditor_accuracy": payoff.accuracy.nanmean(),
            "adjoint_residual": payoff.residual_norms.max(),
            "gradient_bound": payoff.bounds.gradient_bound.max(),
            "game_on": torch.full_like(value, float(gradient)),
        }

    def state_dict(self) -> dict[str, Any]:
        """Steps, cap and bank as plain numbers and tensors, for a checkpoint."""
        cap = None if self.cap is None else {f.name: getattr(self.cap, f.name) for f in fields(self.cap)}
        return {"steps": self.steps, "cap": cap, "bank": None if self.bank is None else self.bank.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            DataError: The state has a cap or a bank where this game has none, or the other way round.
        """
        for name, mine in (("cap", self.cap), ("bank", self.bank)):
            if (state[name] is None) != (mine is None):
                have, want = ("a", "none") if mine is not None else ("no", "one")
                raise DataError(f"this game has {have} {name} and the state has {want}; build it with the same options")
        self.steps = int(state["steps"])
        if self.cap is not None:
            self.cap = type(self.cap)(**state["cap"])
        if self.bank is not None:
            self.bank.load_state_dict(state["bank"])


class Game:
    """One run's game on classifiers: auditing rows in, gradient of weight · M out.

    Args:
        rows: Where auditing batches come from.
        leader: The game's state.
    """

    def __init__(self, rows: AuditRows, leader: Leader) -> None:
        self._rows, self._leader = rows, leader

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

        While the cap says off, the rows count as forwards.

        Returns:
            What `Leader.term` records, and loss_gap.
        """
        leader = self._leader
        gradient = leader.takes_gradient
        batch = self._rows.draw(gradient=gradient, charge_gradient=leader.on)
        # the auditor pools classes with too few rows itself
        groups = (batch.member_labels, batch.nonmember_labels) if leader.auditor.groups == "class" else None
        term, values = leader.term(batch.member_scores, batch.nonmember_scores, groups=groups)
        if gradient:
            term.backward()
        return {**values, "loss_gap": batch.loss_gap}
