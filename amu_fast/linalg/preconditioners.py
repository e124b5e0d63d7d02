"""Preconditioners: operators whose product approximates H^-1 r.

    Jacobi    M = diag(H)^-1
    Nystrom   M = (l_r + mu) U (L + mu I)^-1 U^T + (I - U U^T),   H ~ U L U^T + mu I

Both are symmetric positive definite whenever H is. What is wrong with H shows in the solver: a zero on the
diagonal becomes NONFINITE, a negative one INDEFINITE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.linalg.operators import DampedOperator, GlmHessian, LinearOperator, on_columns
from amu_fast.linalg.structure import diagonal
from amu_fast.linalg.system import plain_arithmetic


@final
@dataclass(frozen=True, eq=False)
class JacobiPreconditioner:
    """M = diag(H)^-1; undoes bad scaling of the unknowns.

    Args:
        inverse_diagonal: 1/diag(H), `(*b, p)`.

    >>> import torch
    >>> from amu_fast.linalg import MatrixOperator
    >>> h = MatrixOperator(torch.diag(torch.tensor([2.0, 8.0])))
    >>> JacobiPreconditioner.from_operator(h).matvec(torch.ones(2)).tolist()
    [0.5, 0.125]
    """

    inverse_diagonal: Tensor

    @classmethod
    def from_operator(cls, operator: LinearOperator) -> JacobiPreconditioner:
        """Invert the operator's diagonal.

        Raises:
            DataError: the operator's class has no cheap `diagonal()`.
        """
        with plain_arithmetic(operator.device):
            return cls(diagonal(operator).reciprocal())

    @property
    def shape(self) -> torch.Size:
        """`(*b, p, p)`."""
        return torch.Size((*self.inverse_diagonal.shape, self.inverse_diagonal.shape[-1]))

    @property
    def dtype(self) -> torch.dtype:
        """Of both sides of a product."""
        return self.inverse_diagonal.dtype

    @property
    def device(self) -> torch.device:
        """Where products are computed."""
        return self.inverse_diagonal.device

    def matvec(self, v: Tensor) -> Tensor:
        """M v for `v (*k, *b, p)`."""
        return self.inverse_diagonal * v


@final
@dataclass(frozen=True, eq=False)
class NystromPreconditioner:
    """M v = v + U ((weights - 1) o (U^T v)) from a randomised low-rank approximation of H - mu I.

    With a rank of about twice the effective dimension sum_j l_j/(l_j + mu), the preconditioned condition
    number is below 28 with high probability, whatever that of H.

    Args:
        basis: U, `(*b, p, r)`, orthonormal columns.
        weights: `(*b, r)`, (l_r + mu)/(l_j + mu), each in (0, 1].

    Source: Frangella, Tropp, Udell, "Randomized Nystrom preconditioning", SIMAX 44 (2023), algorithm 2.1 and
    equation (5.3); the core is pseudo-inverted by its eigenvalues, so no shift and no failing factorisation.

    >>> import torch
    >>> from amu_fast.linalg import ConjugateGradient, MatrixOperator
    >>> h = MatrixOperator(torch.diag(torch.cat([torch.tensor([1e4, 1e3, 1e2]), torch.ones(97)]).double()))
    >>> m = NystromPreconditioner.from_operator(h, rank=6, shift=1.0)
    >>> int(ConjugateGradient().solve(h, torch.ones(100).double(), preconditioner=m).steps) <= 3
    True
    """

    basis: Tensor
    weights: Tensor

    @classmethod
    def from_operator(
        cls, operator: LinearOperator, rank: int, *, rows: int | None = None, shift: float | None = None, seed: int = 0
    ) -> NystromPreconditioner:
        """Sketch H - mu I with `rank` products, in one call; the decompositions synchronise with a GPU.

        On all n rows of a `GlmHessian` it takes 4 n d r operations, often longer than the solve that follows; a sample
        of 20 to 40 r rows finds nearly the same directions. A rank of one to two effective dimensions is enough.

        Args:
            operator: H, shape `(*b, p, p)`.
            rank: r, 1 <= r <= p.
            rows: sketch so many rows of a `GlmHessian`, drawn in proportion to c_i ||x_i||^2; None: all of them.
            shift: mu >= 0 with H - mu I positive semidefinite; None: the l2 of a `GlmHessian` plus the
                damping of a `DampedOperator`, 0 for other operators.
            seed: of the test matrix, the same for every problem and device.

        Raises:
            DataError: rank outside 1 ... p, a negative shift, or `rows` below 1 or of another operator.
        """
        p = operator.shape[-1]
        if not 1 <= rank <= p:
            raise DataError(f"rank must be between 1 and p = {p}, got {rank}")
        mu = known_shift(operator) if shift is None else shift
        if not (math.isfinite(mu) and mu >= 0):
            raise DataError(f"shift must be finite and >= 0, got {mu}; it is the part mu I of H")
        generator = torch.Generator().manual_seed(seed)
        with plain_arithmetic(operator.device):
            if rows is not None:
                operator = _sampled(operator, rows, float(torch.rand((), generator=generator)))
            gaussian = torch.randn(p, rank, generator=generator, dtype=torch.float64)
            test = _orthonormal(gaussian).to(operator.device, operator.dtype)
            sketch = _sketch(operator, test, mu)
            # Decompositions raise for the whole batch when one problem holds NaN; that problem gets NaN weights.
            usable = sketch.isfinite().all(-1).all(-1)[..., None]
            sketch = torch.where(usable[..., None], sketch, 0.0)
            eps = torch.finfo(operator.dtype).eps
            basis, eigenvalues = _low_rank(test.double(), sketch, eps)
            weights = torch.where(usable, _weights(eigenvalues, mu, eps), math.nan)
        return cls(basis.to(operator.dtype), weights.to(operator.dtype))

    @property
    def shape(self) -> torch.Size:
        """`(*b, p, p)`."""
        *batch, p, _ = self.basis.shape
        return torch.Size((*batch, p, p))

    @property
    def dtype(self) -> torch.dtype:
        """Of both sides of a product."""
        return self.basis.dtype

    @property
    def device(self) -> torch.device:
        """Where products are computed."""
        return self.basis.device

    def matvec(self, v: Tensor) -> Tensor:
        """M v for `v (*k, *b, p)`, 4 p r operations."""
        return on_columns(self._columns, v, self.basis.dim() - 2)

    def _columns(self, v: Tensor) -> Tensor:
        coordinates = (self.weights - 1.0)[..., None] * (self.basis.mT @ v)
        return v + self.basis @ coordinates


def known_shift(operator: LinearOperator) -> float:
    """The part of H that is a known multiple of the identity: l2 of a `GlmHessian`, plus damping."""
    if isinstance(operator, DampedOperator):
        return operator.damping + known_shift(operator.base)
    return operator.l2 if isinstance(operator, GlmHessian) else 0.0


def _sampled(operator: LinearOperator, rows: int, offset: float) -> LinearOperator:
    """A `GlmHessian` of fewer rows with the same expectation: row i is drawn with probability ~ c_i ||x_i||^2.

    Systematic sampling: at equal distances along the cumulative sum, from one random offset in [0, 1).
    """
    if isinstance(operator, DampedOperator):
        return DampedOperator(_sampled(operator.base, rows, offset), operator.damping)
    if not isinstance(operator, GlmHessian) or rows < 1:
        raise DataError(f"rows = {rows} of a {type(operator).__name__}: only the rows of a GlmHessian, >= 1, are drawn")
    x, c = operator.x, operator.c
    size = c.double() * (torch.linalg.vector_norm(x, dim=-1).double().square() + operator.intercept)
    ends = size.cumsum(-1)
    points = (torch.arange(rows, dtype=torch.float64, device=x.device) + offset) / rows * ends[..., -1:]
    index = torch.searchsorted(ends, points).clamp(max=x.shape[-2] - 1)
    batch = x.shape[:-2]
    where = [torch.arange(s, device=x.device).reshape(s, *[1] * (len(batch) - i)) for i, s in enumerate(batch)]
    drawn = (*where, index)
    weight = c[drawn].double() * ends[..., -1:] / (rows * size[drawn])
    return GlmHessian(x[drawn], weight.to(c.dtype), operator.l2, operator.intercept)


def _orthonormal(gaussian: Tensor) -> Tensor:
    """Columns spanning those of a Gaussian matrix, orthonormal to about 1e-16 k^2, k its condition number.

    k is a few units, at most about p where rank = p: one factorisation of the small Gram matrix does, ten times faster
    than Householder's, and what is missing to orthonormality cancels in the sketch.
    """
    lower = torch.linalg.cholesky(gaussian.mT @ gaussian)
    return torch.linalg.solve_triangular(lower, gaussian.mT, upper=False).mT


def _sketch(operator: LinearOperator, test: Tensor, mu: float) -> Tensor:
    """(H - mu I) Omega, `(*b, p, r)` in float64."""
    *batch, p, _ = operator.shape
    rank = test.shape[-1]
    columns = test.mT.reshape(rank, *[1] * len(batch), p).expand(rank, *batch, p)
    product = operator.matvec(columns).movedim(0, -1)
    return product.double() - mu * test.double()


def _low_rank(test: Tensor, sketch: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Y (Omega^T Y)^+ Y^T = U L U^T; directions below the sketch's own rounding are dropped (eigenvalue 0)."""
    core = test.mT @ sketch
    values, vectors = torch.linalg.eigh((core + core.mT) / 2)
    floor = eps * test.shape[-1] * values[..., -1:].clamp(min=0)
    kept = values > floor
    root = torch.where(kept, values, 1.0).rsqrt() * kept
    factor = (sketch @ vectors) * root[..., None, :]
    eigenvalues, rotation = torch.linalg.eigh(factor.mT @ factor)
    eigenvalues, rotation = eigenvalues.flip(-1).clamp(min=0), rotation.flip(-1)
    found = eigenvalues > torch.finfo(torch.float64).eps * eigenvalues[..., :1]
    basis = (factor @ rotation) * (torch.where(found, eigenvalues, 1.0).rsqrt() * found)[..., None, :]
    # The Gram matrix leaves columns of small eigenvalues short of orthogonal; Newton-Schulz squares what is missing.
    for _ in range(2):
        basis = 1.5 * basis - 0.5 * (basis @ (basis.mT @ basis))
    return basis, eigenvalues * found


def _weights(eigenvalues: Tensor, mu: float, eps: float) -> Tensor:
    """(l_r + mu)/(l_j + mu), l_r the last eigenvalue; 1 for directions that were dropped.

    Where some were dropped the sketch has seen the whole of H - mu I: what is left of H is mu, so l_r = 0 (with mu = 0
    it is the smallest that was found: nothing has to be solved in the null space).

    v + U ((w - 1) o U^T v) cancels down to eps in the directions U, so smaller weights are raised to 100 eps, where
    rounding changes them by 1 %.
    """
    floor = 100 * eps
    found = eigenvalues > 0
    smallest = torch.where(found, eigenvalues, torch.inf).amin(-1, keepdim=True)
    last = smallest if mu == 0 else torch.where(found[..., -1:], smallest, 0.0) + mu
    ratio = last / torch.where(found, eigenvalues + mu, 1.0)
    return torch.where(found, ratio.clamp(floor, 1.0), 1.0)
