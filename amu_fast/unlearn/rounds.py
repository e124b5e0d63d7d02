"""A budget in rounds: each begins with a pass over the forget rows and goes on with retain steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.unlearn.training import Run


class Rounds:
    """Which kind of step comes next, for methods whose papers write "in each epoch, first forget, then retain".

    The budget is cut into equal rounds. A round's pass over the forget rows is whole if it takes at most half of the
    round, else it is cut to that half: at small budgets an epoch of the paper is more than the whole run.

    Args:
        run: Whose budget it is.
        count: Rounds, >= 1.
        batches: Forget batches of a whole pass.
        cost: Gradient samples of one of them.
        last: Number of the last round, from 1, that has a forget pass.
    """

    def __init__(self, run: Run, count: int, batches: int, cost: float, last: int) -> None:
        if count < 1:
            raise DataError(f"rounds must be >= 1, got {count}")
        self._run, self.count, self._last = run, count, last
        share = run.meter.budget / count
        self._pass = max(1, min(batches, int(0.5 * share / cost)))
        self._begun, self._left = 0, 0

    def forgets(self) -> bool:
        """Whether the next step is one of a forget pass."""
        current = min(self.count, 1 + int(self._run.meter.progress * self.count * (1.0 + 1e-9)))
        if current > self._begun:
            self._begun = current
            self._left = self._pass if current <= self._last else 0
        if self._left == 0:
            return False
        self._left -= 1
        return True

    @property
    def current(self) -> int:
        """Number of the round of the last step, from 1."""
        return self._begun
