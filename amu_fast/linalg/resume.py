"""Long solves can be watched, stopped and continued, in this process or in another one.

`solve(h, v, progress=callback)` shows the callback a `SolveProgress` at every check, and `solve(h, v, resume=state)`
goes on where `SolveProgress.state_dict()` was taken, bit for bit on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.linalg.system import Progress

SolveState: TypeAlias = "Mapping[str, Any]"


@dataclass(frozen=True, eq=False)
class SolveProgress:
    """Where a solve stands, for its `progress` callback. A callback that returns "stop" ends the solve as MAX_STEPS.

    >>> import torch
    >>> from amu_fast.linalg import ConjugateGradient, MatrixOperator
    >>> h, v = MatrixOperator(torch.diag(torch.arange(1.0, 9.0))), torch.ones(8)
    >>> saved = []
    >>> def stop_at_3(progress):
    ...     saved.append(progress.state_dict())
    ...     return "stop" if progress.steps == 3 else None
    >>> _ = ConjugateGradient().solve(h, v, progress=stop_at_3)
    >>> continued = ConjugateGradient().solve(h, v, resume=saved[-1])
    >>> torch.equal(continued.value, ConjugateGradient().solve(h, v).value)
    True
    """

    _state: Progress

    @property
    def steps(self) -> int:
        """Steps taken, those before a `resume` included."""
        return self._state.taken

    @property
    def residual_norms(self) -> Tensor:
        """`(*k, *b)` float64, as the solver's recurrence has them; on the device."""
        return self._state.residual_norms()

    def state_dict(self) -> dict[str, Any]:
        """Copies of everything the solver needs to go on: plain tensors and a number, three or four vectors in all."""
        return self._state.state_dict()


Watch: TypeAlias = Callable[[SolveProgress], object]


def stops(progress: Watch | None, state: Progress) -> bool:
    """Show the state to the callback, if there is one; whether it answers "stop"."""
    return progress is not None and progress(SolveProgress(state)) == "stop"


def check_watch(owner: str, progress: Watch | None, check_every: int | None) -> None:
    """Raise DataError for a callback that would never be called."""
    if progress is not None and check_every is None:
        raise DataError(f"{owner}: check_every=None never looks at a solve, so progress is never called; set a number")
