"""What a running method tells the outside, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class StepState:
    """One finished step.

    Args:
        method: The method's name.
        model: The model being unlearned; a callback may evaluate it and must not change its weights.
        step: Number of finished steps, from 1.
        used: Gradient samples used so far.
        budget: Gradient samples that the run may use.
        lr: Learning rate of this step.
        values: What the step recorded, scalars on the device: "retain_loss", "payoff", "auditor_accuracy", ...
    """

    method: str
    model: nn.Module
    step: int
    used: float
    budget: float
    lr: float
    values: Mapping[str, Tensor]

    def value(self, name: str) -> float | None:
        """One recorded value as a float, None if this step did not record it. Waits for the device."""
        return float(self.values[name]) if name in self.values else None


class Callback(Protocol):
    """Called after every step; returns "stop" to end the run early, else None."""

    def on_step(self, state: StepState) -> Literal["stop"] | None:
        """Look at one step."""


@runtime_checkable
class ClosingCallback(Protocol):
    """A callback that also wants to know that the run is over (for a normal end, a stop and an error alike)."""

    def on_end(self) -> None:
        """Close what was opened."""
