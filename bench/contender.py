"""A contender: something that computes what a case asks for, prepared once and then called on rotating inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: Runs on input set i and returns whatever the case's gate can judge.
Call = Callable[[int], Any]


class NotAvailable(Exception):  # noqa: N818 (an outcome, not a fault)
    """A contender that cannot take part, with the outcome that its record gets: "not installed", "not built" ..."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


@dataclass(frozen=True)
class Contender:
    """One row of a case.

    Attributes:
        name: in records and plots.
        prepare: problem -> call; everything that a user would do once is done here and not timed. It imports the
            peer's package.
        computes: what a call covers; contenders of one case may differ ("fit only"), and the record says so.
        dtype: of the arithmetic.
        gated: whether the accuracy decides over the time; False where it solves another problem, which
            the record says.
        ours: whether this is what the others are compared with.
        share: of the case's time budget.
        notes: settings and versions that matter.
    """

    name: str
    prepare: Callable[[Any], Call]
    computes: str
    dtype: str
    gated: bool = True
    ours: bool = False
    share: float = 1.0
    notes: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the gate found: the error that the case names, the largest that passes, and what else is to be said."""

    error: float
    tolerance: float
    notes: str = ""
    units: int = 1

    @property
    def passed(self) -> bool:
        """NaN does not pass."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Limit:
    """The work that no implementation can avoid, for the units of a case.

    Attributes:
        bytes: that must be read or written once.
        flops: floating-point operations, a multiply-add counted as two.
        dtype: the arithmetic whose rate bounds the flops.
    """

    bytes: float
    flops: float
    dtype: str
