"""Controls of an attack: it must see what is there, and nothing where nothing is (S11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from amu_fast.audit.intervals import Interval
from amu_fast.audit.reasons import Reason
from amu_fast.audit.regions import Side, inside

_FAILED = {"positive": Reason.POSITIVE_CONTROL_FAILED, "negative": Reason.NEGATIVE_CONTROL_FAILED}
_MISSING = {"positive": Reason.POSITIVE_CONTROL_MISSING, "negative": Reason.NEGATIVE_CONTROL_MISSING}


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes:
        kind: "positive": a model known to leak; "negative": a model, or rows, that cannot.
        interval: 90 %, of the same quantity as the claim's.
        passed: positive: the lower end exceeds the margin; negative: it passes the claim's own test.
    """

    kind: Literal["positive", "negative"]
    interval: Interval
    passed: bool

    @staticmethod
    def positive(interval: Interval, margin: float) -> Control:
        """Passed where the attack finds more than the margin on a model known to leak."""
        return Control("positive", interval, interval.low > margin)

    @staticmethod
    def negative(interval: Interval, margin: float, side: Side = "both") -> Control:
        """Passed where what cannot leak passes the claim's own test."""
        return Control("negative", interval, inside(interval, margin, side))


def shortfalls(controls: Sequence[Control]) -> tuple[Reason, ...]:
    """Codes of controls that are missing or failed; none for an attack that may be believed."""
    run = {control.kind for control in controls}
    missing = [code for kind, code in _MISSING.items() if kind not in run]
    return (*missing, *(_FAILED[control.kind] for control in controls if not control.passed))
