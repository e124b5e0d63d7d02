"""Work of a method in gradient samples, the unit in which budgets are equal across methods."""

from __future__ import annotations

from dataclasses import dataclass

from amu_fast.errors import DataError

FORWARD_SHARE = 1.0 / 3.0  # a forward costs about half of its backward


@dataclass
class GradientSamples:
    """Counts rows: one through forward and backward is 1, one through a forward alone is 1/3.

    Args:
        budget: Gradient samples that a run may use, > 0.
        used: Gradient samples used so far.

    >>> meter = GradientSamples(budget=100.0)
    >>> meter.add(64); meter.add(30, backward=False)
    >>> round(meter.used), meter.exhausted
    (74, False)
    """

    budget: float
    used: float = 0.0

    @classmethod
    def of_epochs(cls, epochs: float, retain_rows: int) -> GradientSamples:
        """A budget given in sizes of the retain set."""
        if not 0.0 < epochs < float("inf"):
            raise DataError(f"epochs must be > 0 and finite, got {epochs}; it is the budget in retain-set sizes")
        return cls(budget=epochs * retain_rows)

    def add(self, rows: int, *, backward: bool = True) -> None:
        """Charge `rows` rows."""
        self.used += cost(rows, backward=backward)

    @property
    def progress(self) -> float:
        """Used / budget."""
        return self.used / self.budget

    @property
    def exhausted(self) -> bool:
        """Whether the budget is used up (to a part in 10⁹, because thirds add up inexactly)."""
        return self.used >= self.budget * (1.0 - 1e-9)


def cost(rows: int, *, backward: bool = True) -> float:
    """Gradient samples of `rows` rows."""
    return float(rows) if backward else rows * FORWARD_SHARE
