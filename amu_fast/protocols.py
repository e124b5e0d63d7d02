"""What a method and an attack must look like; everything above implements these two protocols.

Structural types: a third party's class needs no import from here to satisfy them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn

    from amu_fast.splits import Splits


class Result(Protocol):
    """An unlearned model and the frozen record of how it came about."""

    @property
    def model(self) -> nn.Module:
        """The unlearned model; the caller's own model is left unchanged."""

    @property
    def report(self) -> Any:
        """Frozen record: configuration, history, cost, metrics, provenance."""


@runtime_checkable
class Method(Protocol):
    """Turns a trained model into one that no longer knows the forget split."""

    @property
    def name(self) -> str:
        """Short stable name, used in tables."""

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """Return the unlearned copy of `model` with its record; the same seed gives the same bits on the CPU."""


@runtime_checkable
class Attack(Protocol):
    """Tells members from non-members by a model's outputs; a higher score means member, always."""

    @property
    def name(self) -> str:
        """Short stable name, used in tables."""

    def run(self, target: Any, splits: Any) -> Any:
        """Attack a model on its splits, or plain arrays of scores; returns an AttackResult."""
