"""What a solver returns, and what a solver is.

A solver never returns a bare tensor: the value comes with the status of each problem, the norm of the
residual recomputed from that very value, and the steps taken. Nothing here makes the device wait except
`Solution.raise_for_status`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from amu_fast.errors import SolveError
from amu_fast.status import Status

if TYPE_CHECKING:
    from torch import Tensor

    from amu_fast.linalg.operators import LinearOperator


@dataclass(frozen=True, eq=False)
class Solution:
    """The outcome of `solve`: u with H u ~ v, one entry per problem and right-hand side.

    | status | value |
    |---|---|
    | CONVERGED | residual norm <= max(rtol ||v||, atol), measured on the value itself |
    | MAX_STEPS, STAGNATED | the last iterate, finite, with the residual it really has |
    | INDEFINITE, NONFINITE, DIVERGED | NaN: there is no answer, and zeros would look like one |

    Args:
        value: `(*k, *b, p)`.
        status: `(*k, *b)` int8, values of `Status`, on the device.
        residual_norms: `(*k, *b)` float64: ||v - H value|| of the operator given to `solve` (damped if that
            was a `DampedOperator`), recomputed by a product, never taken from a recurrence.
        steps: `(*k, *b)` int64, steps until the problem's status was decided.
    """

    value: Tensor
    status: Tensor
    residual_norms: Tensor
    steps: Tensor

    def raise_for_status(self) -> Solution:
        """Raise unless every problem CONVERGED. Synchronises with the device once when all is well.

        Returns:
            The solution itself, so that calls can be chained.

        Raises:
            SolveError: names the number of problems per status, the worst true residual and what to do.

        >>> import torch
        >>> from amu_fast.linalg import Cholesky, MatrixOperator
        >>> Cholesky().solve(MatrixOperator(-torch.eye(2)), torch.ones(2)).raise_for_status()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        amu_fast.errors.SolveError: 1 of 1 linear systems not solved: 1 INDEFINITE; ...
        """
        if not bool((self.status != Status.CONVERGED).any()):
            return self
        raise SolveError(self._message())

    def _message(self) -> str:
        codes = self.status.flatten().tolist()
        norms, steps = self.residual_norms.flatten().tolist(), self.steps.flatten().tolist()
        failed = [i for i, code in enumerate(codes) if code != Status.CONVERGED]
        # NaN ranks below every number here: the worst residual is a number if any is.
        worst = max(failed, key=lambda i: (norms[i] == norms[i], norms[i]))
        kinds = [status for status in Status if status != Status.CONVERGED and status in codes]
        counts = ", ".join(f"{codes.count(status)} {status.name}" for status in kinds)
        advice = " ".join(f"{status.name}: {status.advice}" for status in kinds)
        return (
            f"{len(failed)} of {len(codes)} linear systems not solved: {counts}; worst true residual "
            f"{norms[worst]:.3e} (problem {worst} in flat order, after {steps[worst]} steps). {advice}"
        )


@runtime_checkable
class LinearSolver(Protocol):
    """Options are fields of a frozen dataclass; the system is the argument."""

    def solve(
        self,
        operator: LinearOperator,
        rhs: Tensor,
        *,
        initial: Tensor | None = None,
        preconditioner: LinearOperator | None = None,
    ) -> Solution:
        """Solve H u = v for `rhs (*k, *b, p)`, starting at `initial` of the same shape (default: zero).

        `preconditioner.matvec(r)` approximates H^-1 r and is symmetric positive definite. Both are hints:
        they change the number of steps, not the meaning of the result. Nothing is recorded for autograd.
        """
