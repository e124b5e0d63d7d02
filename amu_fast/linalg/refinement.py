"""Iterative refinement: a cheap, imprecise solve corrected by exact residuals.

    r = v - H u   (the operator's precision)        d = H^-1 r   (factor_dtype)        u += d

Each step multiplies the error by about k(H) eps, eps that of factor_dtype: float32 inside
float64 gains three digits a step at condition number 1e4, and ends at float64's own accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.linalg.cholesky import Cholesky
from amu_fast.linalg.structure import cast
from amu_fast.linalg.system import LinearSystem, Progress, check_options, plain_arithmetic, power_of_two
from amu_fast.ops.vectors import norm
from amu_fast.status import Status

if TYPE_CHECKING:
    from amu_fast.linalg.operators import LinearOperator
    from amu_fast.linalg.solution import LinearSolver, Solution

# r -> (d ~ H^-1 r, status of that solve).
_Inverse = Callable[[Tensor], tuple[Tensor, Tensor]]

# A step that leaves more than this share of the residual has stopped working (the source's "aggressive" setting).
_CONTRACTION = 0.9


@dataclass(frozen=True)
class Refinement:
    """Solve H u = v in the operator's dtype with an inner solver in a narrower one.

    Args:
        inner: `Cholesky()` is factored once and reused; an iterative solver is called with the narrowed
            operator in every step (its own tolerance says how much a step gains).
        factor_dtype: dtype of the inner solve.
        rtol: CONVERGED means ||v - H u|| <= max(rtol ||v||, atol) for the true residual.
        atol: absolute part of the rule.
        max_steps: MAX_STEPS after so many corrections.

    Accuracy: converges while k(H) times the unit roundoff of `factor_dtype` is below 1, about 1e7 for
    float32. Beyond that the status is INDEFINITE (no factor at that precision) or STAGNATED: nothing falls
    back in silence.

    Source: Demmel, Hida, Kahan, Li, Mukherjee, Riedy, "Error bounds from extra-precise iterative refinement",
    ACM TOMS 32 (2006).

    >>> import torch
    >>> from amu_fast.linalg import MatrixOperator
    >>> h = MatrixOperator(torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64))
    >>> solution = Refinement().solve(h, torch.tensor([1.0, 2.0], dtype=torch.float64)).raise_for_status()
    >>> bool((solution.value - torch.tensor([1.0, 7.0], dtype=torch.float64) / 11).abs().max() < 1e-10)
    True
    """

    inner: LinearSolver = field(default_factory=Cholesky)
    factor_dtype: torch.dtype = torch.float32
    rtol: float = 1e-10
    atol: float = 0.0
    max_steps: int = 30

    def __post_init__(self) -> None:
        check_options("Refinement", self.rtol, self.atol, max_steps=self.max_steps)
        if self.factor_dtype not in (torch.float32, torch.float64):
            raise DataError(f"Refinement: factor_dtype must be torch.float32 or float64, got {self.factor_dtype}")

    def solve(
        self,
        operator: LinearOperator,
        rhs: Tensor,
        *,
        initial: Tensor | None = None,
        preconditioner: LinearOperator | None = None,
    ) -> Solution:
        """Solve for every right-hand side; synchronises once per correction.

        Args:
            operator: H, shape `(*b, p, p)`, symmetric positive definite, in the precision that is wanted.
            rhs: v, `(*k, *b, p)`.
            initial: first iterate, of rhs' shape.
            preconditioner: handed to an iterative inner solver in `factor_dtype`.

        Returns:
            A `Solution`; `steps` counts corrections.

        Raises:
            DataError: shapes, dtypes or devices do not fit.
        """
        with plain_arithmetic(rhs.device):
            system = LinearSystem.build(operator, rhs, initial, self.rtol, self.atol)
            state = _State(system, self._inverse(operator, preconditioner))
            for _ in range(self.max_steps):
                if not bool(state.open.any()):
                    break
                state.step()
            return state.solution()

    def _inverse(self, operator: LinearOperator, preconditioner: LinearOperator | None) -> _Inverse:
        """The inner solve: r -> (d ~ H^-1 r, its status)."""
        if isinstance(self.inner, Cholesky):
            factor = self.inner.factor(operator, self.factor_dtype)
            return lambda r: (factor.matvec(r), factor.status.expand(r.shape[:-1]))
        narrow = cast(operator, self.factor_dtype)
        hint = None if preconditioner is None else cast(preconditioner, self.factor_dtype)

        def solve(r: Tensor) -> tuple[Tensor, Tensor]:
            solution = self.inner.solve(narrow, r.to(self.factor_dtype), preconditioner=hint)
            return solution.value.to(r.dtype), solution.status

        return solve


class _State(Progress):
    """The iterates of all problems; a correction that does not help is not taken."""

    def __init__(self, system: LinearSystem, inverse: _Inverse) -> None:
        super().__init__(system)
        self.inverse = inverse
        self.close(~self.true_norm.isfinite(), Status.NONFINITE)
        self.close(self.true_norm <= system.target, Status.CONVERGED)

    def step(self) -> None:
        """One correction of every open problem, and the verdict."""
        # The inner precision may have a narrow range: what it sees is of order 1.
        size = power_of_two(self.r.abs().amax(-1, keepdim=True))
        d, inner = self.inverse(self.r / size)
        self.close(inner == int(Status.INDEFINITE), Status.INDEFINITE)
        y = self.y + d * size
        r = self.system.residual(y)
        after = norm(r)
        self.close(~after.isfinite(), Status.NONFINITE)
        better = self.open & (after < self.true_norm)
        worked = after <= _CONTRACTION * self.true_norm
        self.steps = self.steps + self.open
        self.y = torch.where(better[..., None], y, self.y)
        self.r = torch.where(better[..., None], r, self.r)
        self.true_norm = torch.where(better, after, self.true_norm)
        self.close(self.true_norm <= self.system.target, Status.CONVERGED)
        self.close(~worked, Status.STAGNATED)
