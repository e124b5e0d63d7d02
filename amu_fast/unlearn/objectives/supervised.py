"""The follower-free objectives: fine-tuning, gradient ascent, gradient difference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from amu_fast.errors import DataError
from amu_fast.unlearn.meter import cost
from amu_fast.unlearn.objectives.base import RetainLoss, Summed, Terms, retain_term
from amu_fast.unlearn.objectives.batch import UnlearningBatch, outputs_of, rows_of
from amu_fast.unlearn.objectives.likelihood import mean_nll


@dataclass(frozen=True)
class FineTune(Summed):
    """NLL of the retain rows, nothing else: what any method must beat.

    Args:
        group: Process group of the ranks; None: all of them.
    """

    group: Any = None
    name: str = "fine_tune"

    def needs(self, step: int) -> tuple[str, ...]:
        """Retain rows."""
        return ("retain",)

    def terms(self, model: nn.Module, batch: UnlearningBatch, retain_loss: RetainLoss | None = None) -> Iterator[Terms]:
        """The retain loss."""
        yield retain_term(model, batch, retain_loss, group=self.group)


@dataclass(frozen=True)
class GradientAscent(Summed):
    """Minus the NLL of the forget rows.

    Source: Jang et al. 2023 (arXiv 2210.01504).

    Args:
        group: Process group of the ranks; None: all of them.
    """

    group: Any = None
    name: str = "gradient_ascent"

    def needs(self, step: int) -> tuple[str, ...]:
        """Forget rows."""
        return ("forget",)

    def terms(self, model: nn.Module, batch: UnlearningBatch, retain_loss: RetainLoss | None = None) -> Iterator[Terms]:
        """Minus the forget loss."""
        yield _ascent(model, batch, 1.0, self.group)


@dataclass(frozen=True)
class GradientDifference(Summed):
    """α · NLL of the retain rows − γ · NLL of the forget rows.

    Source: Liu et al. 2022 (arXiv 2203.12817), with the weights of the TOFU paper (arXiv 2401.06121) as defaults.

    Args:
        forget_weight: γ >= 0.
        retain_weight: α >= 0.
        group: Process group of the ranks; None: all of them.
    """

    forget_weight: float = 1.0
    retain_weight: float = 1.0
    group: Any = None
    name: str = "gradient_difference"

    def __post_init__(self) -> None:
        for name in ("forget_weight", "retain_weight"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise DataError(f"{name} must be >= 0 and finite, got {getattr(self, name)}; 1 is usual")

    def needs(self, step: int) -> tuple[str, ...]:
        """Retain and forget rows."""
        return ("retain", "forget")

    def terms(self, model: nn.Module, batch: UnlearningBatch, retain_loss: RetainLoss | None = None) -> Iterator[Terms]:
        """The retain loss, then minus the forget loss."""
        yield retain_term(model, batch, retain_loss, self.retain_weight, self.group)
        yield _ascent(model, batch, self.forget_weight, self.group)


def _ascent(model: nn.Module, batch: UnlearningBatch, weight: float, group: Any) -> Terms:
    part = batch.part("forget")
    loss = mean_nll(outputs_of(model, part), group)
    return Terms(-weight * loss, {"forget_loss": loss.detach()}, cost(rows_of(part)))
