"""What an objective is: a batch in, the scalar to descend out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from amu_fast.unlearn.meter import cost
from amu_fast.unlearn.objectives.batch import Part, UnlearningBatch, outputs_of, rows_of
from amu_fast.unlearn.objectives.likelihood import mean_nll

RetainLoss = Callable[[nn.Module, Part], Tensor]


@dataclass(frozen=True)
class Terms:
    """What one batch adds to the leader's loss.

    Args:
        loss: A scalar; with several ranks, such that the *average* of their gradients is the gradient of the whole
            (what DDP and FSDP compute).
        values: What to record, scalars without gradient: "retain_loss", "forget_loss", "payoff", ...
        gradient_samples: This rank's work: rows with gradient, plus a third of the rows without.
    """

    loss: Tensor
    values: Mapping[str, Tensor] = field(default_factory=dict)
    gradient_samples: float = 0.0


class Objective(Protocol):
    """The loss of one method for anybody's training loop; first-order in the model, so any wrapper may be around it."""

    @property
    def name(self) -> str:
        """Name of the method."""

    def needs(self, step: int) -> tuple[str, ...]:
        """Parts that the batch of this step must have."""

    def terms(self, model: nn.Module, batch: UnlearningBatch, retain_loss: RetainLoss | None = None) -> Iterator[Terms]:
        """The terms of the loss, one after another.

        A loop that calls backward on one before it asks for the next never has two graphs alive at once. A term without
        a gradient (a game that is switched off) has a loss that does not require one.

        Args:
            model: In train mode, as the loop left it; an objective restores what it changes.
            batch: One step's rows, or one micro-batch's.
            retain_loss: How the loop computes the loss of retain rows; None: the mean over rows or counted tokens.
        """

    def __call__(self, model: nn.Module, batch: UnlearningBatch, retain_loss: RetainLoss | None = None) -> Terms:
        """All terms in one, for a loop that calls backward once."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""


class Summed:
    """The parts of `Objective` that follow from `terms`; an objective without state has nothing to save."""

    def terms(self, model: nn.Module, batch: UnlearningBatch, retain_loss: RetainLoss | None = None) -> Iterator[Terms]:
        """The terms of the loss, one after another."""
        raise NotImplementedError

    def __call__(self, model: nn.Module, batch: UnlearningBatch, retain_loss: RetainLoss | None = None) -> Terms:
        """All terms in one."""
        terms = list(self.terms(model, batch, retain_loss))
        loss = terms[0].loss
        for term in terms[1:]:
            loss = loss + term.loss
        values = {name: value for term in terms for name, value in term.values.items()}
        return Terms(loss, values, sum(term.gradient_samples for term in terms))

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


def retain_term(
    model: nn.Module, batch: UnlearningBatch, retain_loss: RetainLoss | None, weight: float = 1.0, group: Any = None
) -> Terms:
    """`weight` times the loss of the batch's retain rows, recorded as "retain_loss"."""
    part = batch.part("retain")
    loss = mean_nll(outputs_of(model, part), group) if retain_loss is None else retain_loss(model, part)
    return Terms(weight * loss, {"retain_loss": loss.detach()}, cost(rows_of(part)))
