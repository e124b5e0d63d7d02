"""Direct solves by a batched Cholesky factorisation, with a verdict per problem.

    D H D = L L^T        u = D L^-T L^-1 D v        D = diag of powers of two

diag(D H D) lies in [1/2, 2]. D costs no rounding and takes eigenvalues of 1e+-60 through a float32 factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from amu_fast.linalg.operators import LinearOperator, on_columns
from amu_fast.linalg.structure import to_dense
from amu_fast.linalg.system import LinearSystem, check_options, plain_arithmetic, power_of_two
from amu_fast.ops.spd import SPD_SOLVE
from amu_fast.ops.vectors import norm
from amu_fast.status import Status

if TYPE_CHECKING:
    from amu_fast.linalg.solution import Solution

# Up to this order one right-hand side per matrix is solved by `spd_solve`, the batch in the SIMD lanes, whose factors
# then fit into a core's second-level cache. Case P3 of the benchmarks compares it with torch's batched factorisation
# up to here; above, torch's blocked one is better for few matrices.
_FUSED_ORDER = 128


@final
@dataclass(frozen=True, eq=False)
class CholeskyFactor:
    """H^-1 as an operator: `matvec(v)` is D L^-T L^-1 D v, so it also serves as a preconditioner.

    Args:
        lower: L, `(*b, p, p)`, in the dtype of the factorisation.
        scaling: diag(D), `(*b, p)`, powers of two in the operator's dtype.
        status: `(*b)` int8: CONVERGED, INDEFINITE (at the factor's precision) or NONFINITE.
    """

    lower: Tensor
    scaling: Tensor
    status: Tensor

    @property
    def shape(self) -> torch.Size:
        """`(*b, p, p)`."""
        return self.lower.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of both sides of a product."""
        return self.scaling.dtype

    @property
    def device(self) -> torch.device:
        """Where products are computed."""
        return self.lower.device

    def matvec(self, v: Tensor) -> Tensor:
        """H^-1 v for `v (*k, *b, p)`; NaN for problems that have no factor."""
        scaled = self.scaling * v
        # The factor may be narrower than v: what goes through it is of order 1.
        size = power_of_two(scaled.abs().amax(-1, keepdim=True))
        narrow = (scaled / size).to(self.lower.dtype)
        solved = on_columns(lambda columns: torch.cholesky_solve(columns, self.lower), narrow, len(self.shape) - 2)
        failed = (self.status != int(Status.CONVERGED))[..., None]
        return torch.where(failed, math.nan, self.scaling * (solved.to(self.dtype) * size))


@dataclass(frozen=True)
class Cholesky:
    """Solve H u = v directly, p^3/3 operations per problem; for small p.

    Args:
        rtol: CONVERGED means ||v - H u|| <= max(rtol ||v||, atol), as for every solver; else STAGNATED. The
            residual is taken with the operator itself, not with the matrix that was factored.
        atol: absolute part of the rule.

    Accuracy: residuals are about eps ||H|| ||u||; float32 meets rtol = 1e-6 only up to a
    condition number of a few tens: use `Refinement`, or float64.

    >>> import torch
    >>> from amu_fast.linalg import MatrixOperator
    >>> Cholesky().solve(MatrixOperator(torch.diag(torch.tensor([2.0, 4.0]))), torch.ones(2)).value.tolist()
    [0.5, 0.25]
    """

    rtol: float = 1e-6
    atol: float = 0.0

    def __post_init__(self) -> None:
        check_options("Cholesky", self.rtol, self.atol)

    def factor(self, operator: LinearOperator, dtype: torch.dtype | None = None) -> CholeskyFactor:
        """Factor every problem; does not synchronise.

        Args:
            operator: H, shape `(*b, p, p)`; only the lower triangle of its matrix is read.
            dtype: of the factor; None: the operator's.
        """
        with plain_arithmetic(operator.device):
            scaled, scaling, finite = _equilibrated(operator)
            lower, info = torch.linalg.cholesky_ex(scaled.to(dtype or scaled.dtype))
        return CholeskyFactor(lower, scaling, _verdict(info, finite))

    def solve(
        self,
        operator: LinearOperator,
        rhs: Tensor,
        *,
        initial: Tensor | None = None,
        preconditioner: LinearOperator | None = None,
    ) -> Solution:
        """Solve for every right-hand side; does not synchronise.

        Args:
            operator: H, shape `(*b, p, p)`, symmetric positive definite.
            rhs: v, `(*k, *b, p)`.
            initial: checked and unused: a direct solve has no first iterate.
            preconditioner: unused: nothing is left to precondition.

        Returns:
            A `Solution`; `steps` is 1.

        Raises:
            DataError: shapes, dtypes or devices do not fit.
        """
        with plain_arithmetic(rhs.device):
            system = LinearSystem.build(operator, rhs, initial, self.rtol, self.atol)
            y, found = self._answer(operator, system.b())
            size = norm(system.residual(y))
            verdict = torch.where(size <= system.target, int(Status.CONVERGED), int(Status.STAGNATED))
            verdict = torch.where(size.isfinite(), verdict, int(Status.NONFINITE))
            status = torch.where(found != int(Status.CONVERGED), found, verdict).to(torch.int8)
            return system.solution(y, status, size, torch.ones_like(size, dtype=torch.int64))

    def _answer(self, operator: LinearOperator, b: Tensor) -> tuple[Tensor, Tensor]:
        """H^-1 b, and what the factorisation says of each problem."""
        if b.shape != operator.shape[:-1] or b.shape[-1] > _FUSED_ORDER:
            factor = self.factor(operator)
            return factor.matvec(b), factor.status
        scaled, scaling, finite = _equilibrated(operator)
        narrow = scaling * b
        size = power_of_two(narrow.abs().amax(-1, keepdim=True))
        solved, info = SPD_SOLVE.bare(scaled, narrow / size)
        return scaling * (solved * size), _verdict(info, finite)


def _equilibrated(operator: LinearOperator) -> tuple[Tensor, Tensor, Tensor]:
    """D H D, diag(D) and whether every entry of H is finite."""
    matrix = to_dense(operator)
    scaling = power_of_two(1.0 / power_of_two(matrix.diagonal(dim1=-2, dim2=-1)).sqrt())
    scaled = scaling[..., :, None] * matrix * scaling[..., None, :]
    return scaled, scaling, matrix.isfinite().all(-1).all(-1)


def _verdict(info: Tensor, finite: Tensor) -> Tensor:
    """CONVERGED, INDEFINITE or NONFINITE for each factorisation."""
    status = torch.where(info == 0, int(Status.CONVERGED), int(Status.INDEFINITE))
    return torch.where(finite, status, int(Status.NONFINITE)).to(torch.int8)
