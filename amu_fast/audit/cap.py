"""When to stop pushing: the payoff's floor at chance, calibrated by permutation (docs/statistics.md, S15)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from amu_fast.errors import DataError


@dataclass(frozen=True)
class ChanceCap:
    """A moving average of payoff minus permuted payoff; the game is on while it exceeds 0 by one standard error.

    A follower that overfits pays far below the textbook value of chance with no signal at all, so a fixed cap would
    switch the game off while signal remains. Immutable: `update` returns the next state, and the fields are a
    checkpoint.

    Args:
        decay: Of the moving average, in (0, 1).
        warmup: The game is on for so many first steps, whatever they show.
        count: Steps seen.
        mean: Moving average of the differences, not yet corrected for its start.
        square: The same of their squares.

    Raises:
        DataError: decay or warmup is out of range.

    >>> cap = ChanceCap(warmup=2)
    >>> for _ in range(40):
    ...     cap = cap.update(-1.0, -1.0)
    >>> cap.active
    False
    """

    decay: float = 0.95
    warmup: int = 5
    count: int = 0
    mean: float = 0.0
    square: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise DataError(f"decay must be in (0, 1), got {self.decay}; 0.95 is the default")
        if self.warmup < 1:
            raise DataError(f"warmup must be >= 1, got {self.warmup}; one difference has no deviation")

    def update(self, payoff: float, permuted_payoff: float) -> ChanceCap:
        """The state after one more step. A non-finite pair is left out, as it says nothing about chance."""
        difference = float(payoff) - float(permuted_payoff)
        if not math.isfinite(difference):
            return self
        keep = self.decay
        return replace(
            self,
            count=self.count + 1,
            mean=keep * self.mean + (1 - keep) * difference,
            square=keep * self.square + (1 - keep) * difference**2,
        )

    @property
    def excess(self) -> float:
        """The moving average of payoff minus permuted payoff, corrected for its start; NaN before the first step."""
        return self.mean / (1 - self.decay**self.count) if self.count else math.nan

    @property
    def standard_error(self) -> float:
        """Deviation times sqrt((1 - decay) / (1 + decay)), exact for a young average; NaN before the first step."""
        if not self.count:
            return math.nan
        share = 1 - self.decay**self.count
        variance = max(0.0, self.square / share - self.excess**2)
        weights = (1 - self.decay) / (1 + self.decay) * (1 - self.decay ** (2 * self.count)) / share**2
        return math.sqrt(variance * weights)

    @property
    def active(self) -> bool:
        """Whether the game is on."""
        return self.count < self.warmup or self.excess > self.standard_error
