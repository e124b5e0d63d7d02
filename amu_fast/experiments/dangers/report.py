"""What a danger scenario or its audit found: figures, intervals, and warnings as a code with a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from amu_fast.audit.intervals import Interval


@dataclass(frozen=True)
class DangerReport:
    """Findings of one audit.

    Attributes:
        name: Of the scenario or audit.
        figures: Point values by name; shares are fractions.
        intervals: Values that carry an interval, by name.
        warnings: "CODE: one sentence" each; empty where nothing was found.
    """

    SCHEMA: ClassVar[str] = "amu-fast-danger/1"

    name: str
    figures: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def codes(self) -> tuple[str, ...]:
        """The warnings' codes, for machines.

        >>> DangerReport("toy", {}, warnings=("TRIGGER_WOKEN: success rose.",)).codes
        ('TRIGGER_WOKEN',)
        """
        return tuple(warning.split(":", 1)[0] for warning in self.warnings)

    def __str__(self) -> str:
        lines = [self.name, *(f"  {name} {value:.4g}" for name, value in self.figures.items())]
        lines += [f"  {name} {i.value:.4g} [{i.low:.4g}, {i.high:.4g}]" for name, i in self.intervals.items()]
        return "\n".join([*lines, *(f"  ! {warning}" for warning in self.warnings)])
