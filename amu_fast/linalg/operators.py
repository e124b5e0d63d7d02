"""Symmetric linear operators: H v without forming H.

    MatrixOperator    H = A                                 a matrix that is already there
    GlmHessian        H = X~^T diag(c) X~ + l2 I            equation (4): the Hessian of a linear follower
    DampedOperator    H = B + damping I                     changes the linear system, never the problem

Shapes: `(*b, p, p)` for the operator, `(*k, *b, p)` for what it multiplies: leading dimensions beyond the
operator's own batch are right-hand sides, columns of one product: no matrix is copied per right-hand side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.ops.glm import glm_hvp
from amu_fast.ops.glm_arguments import product_columns, transposed_product_columns
from amu_fast.ops.glm_multi import glm_hvp_multi

if TYPE_CHECKING:
    from collections.abc import Callable


# Right-hand sides up to which one fused pass beats two matrix products: docs/performance.md.
_FUSED_COLUMNS = 64


@runtime_checkable
class LinearOperator(Protocol):
    """A symmetric matrix per problem, known by its products; a preconditioner is one too.

    Optional methods `dense()`, `diagonal()` and `cast(dtype)` let `to_dense`, `diagonal` and `cast` of this
    package avoid `p` products.
    """

    @property
    def shape(self) -> torch.Size:
        """`(*b, p, p)`: one p x p matrix for each problem of the batch `b`."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of both sides of a product."""

    @property
    def device(self) -> torch.device:
        """Where products are computed."""

    def matvec(self, v: Tensor) -> Tensor:
        """H v for `v (*k, *b, p)`, of the same shape."""


def on_columns(apply: Callable[[Tensor], Tensor], v: Tensor, batch_ndim: int) -> Tensor:
    """Apply a map of columns `(*b, p, K) -> (*b, q, K)` to `v (*k, *b, p)`; returns `(*k, *b, q)`."""
    lead = v.shape[: v.dim() - batch_ndim - 1]
    columns = v.reshape(math.prod(lead), *v.shape[len(lead) :]).movedim(0, -1)
    result = apply(columns).movedim(-1, 0)
    return result.reshape(*lead, *result.shape[1:])


@final
@dataclass(frozen=True, eq=False)
class MatrixOperator:
    """H v = A v for explicit symmetric matrices.

    Args:
        matrix: `(*b, p, p)`, symmetric (trusted: checking it would make the device wait).

    Raises:
        DataError: not square, or not floating point.

    >>> import torch
    >>> operator = MatrixOperator(torch.diag(torch.tensor([2.0, 4.0])))
    >>> operator.matvec(torch.tensor([[1.0, 1.0], [0.5, 0.0]])).tolist()
    [[2.0, 4.0], [1.0, 0.0]]
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        a = self.matrix
        if a.dim() < 2 or a.shape[-1] != a.shape[-2] or not a.is_floating_point():
            raise DataError(
                f"matrix must be floating point of shape (*b, p, p), got {a.dtype} {tuple(a.shape)}; "
                "pass one square matrix per problem"
            )

    @property
    def shape(self) -> torch.Size:
        """`(*b, p, p)`."""
        return self.matrix.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of both sides of a product."""
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        """Where products are computed."""
        return self.matrix.device

    def matvec(self, v: Tensor) -> Tensor:
        """A v for `v (*k, *b, p)`."""
        return on_columns(lambda columns: self.matrix @ columns, v, self.matrix.dim() - 2)

    def dense(self) -> Tensor:
        """The matrix itself, `(*b, p, p)`."""
        return self.matrix

    def diagonal(self) -> Tensor:
        """diag(A), `(*b, p)`."""
        return self.matrix.diagonal(dim1=-2, dim2=-1)

    def cast(self, dtype: torch.dtype) -> MatrixOperator:
        """The same operator with its matrix rounded to `dtype`."""
        return MatrixOperator(self.matrix.to(dtype))


@final
@dataclass(frozen=True, eq=False)
class GlmHessian:
    """H v = X~^T (c o (X~ v)) + l2 v, X~ = [x, 1] with intercept (equation (4)).

    Args:
        x: `(*b, n, d)` rows.
        c: `(*b, n)` curvatures l''(m_i)/n, each >= 0; 0 takes a row out.
        l2: weight of the regulariser, >= 0; > 0 makes H positive definite with smallest eigenvalue >= l2.
        intercept: a column of ones is appended, so p = d + 1; else p = d.

    Raises:
        DataError: shapes or dtypes of x and c do not agree, or l2 < 0.

    >>> import torch
    >>> h = GlmHessian(torch.tensor([[1.0], [3.0]]), torch.tensor([0.5, 0.5]), l2=0.25)
    >>> h.matvec(torch.tensor([1.0, 0.0])).tolist()
    [5.25, 2.0]
    >>> h.dense().tolist()
    [[5.25, 2.0], [2.0, 1.25]]
    """

    x: Tensor
    c: Tensor
    l2: float
    intercept: bool = True

    def __post_init__(self) -> None:
        x, c = self.x, self.c
        if x.dim() < 2 or x.shape[:-1] != c.shape or x.dtype != c.dtype or not x.is_floating_point():
            raise DataError(
                f"x must be (*b, n, d) and c (*b, n) of one floating dtype, got {x.dtype} {tuple(x.shape)} and "
                f"{c.dtype} {tuple(c.shape)}; expand shared rows to the batch of c"
            )
        if not (math.isfinite(self.l2) and self.l2 >= 0):
            raise DataError(f"l2 must be finite and >= 0, got {self.l2}; a positive l2 makes H positive definite")

    @property
    def shape(self) -> torch.Size:
        """`(*b, p, p)`."""
        p = self.x.shape[-1] + int(self.intercept)
        return torch.Size((*self.x.shape[:-2], p, p))

    @property
    def dtype(self) -> torch.dtype:
        """Of both sides of a product."""
        return self.x.dtype

    @property
    def device(self) -> torch.device:
        """Where products are computed."""
        return self.x.device

    def matvec(self, v: Tensor) -> Tensor:
        """H v for `v (*k, *b, p)`: one pass over x, or two matrix products for very many right-hand sides."""
        batch_ndim = self.x.dim() - 2
        if v.dim() == batch_ndim + 1:
            return glm_hvp(self.x, self.c, v, self.l2, self.intercept)
        return on_columns(self._columns, v, batch_ndim)

    def _columns(self, v: Tensor) -> Tensor:
        if v.shape[-1] <= _FUSED_COLUMNS and self.dtype in (torch.float32, torch.float64):
            return glm_hvp_multi(self.x, self.c[..., None], v, self.l2, self.intercept)
        z = self.c[..., None] * product_columns(self.x, v, self.intercept)
        return transposed_product_columns(self.x, z, self.intercept) + self.l2 * v

    def _augmented(self) -> Tensor:
        ones = self.x.new_ones((*self.x.shape[:-1], 1))
        return torch.cat([self.x, ones], -1) if self.intercept else self.x

    def dense(self) -> Tensor:
        """X~^T diag(c) X~ + l2 I, `(*b, p, p)`."""
        rows = self._augmented()
        gram = (rows * self.c[..., None]).mT @ rows
        return gram + self.l2 * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)

    def diagonal(self) -> Tensor:
        """diag(H)_j = sum_i c_i x~_ij^2 + l2, `(*b, p)`."""
        return (self._augmented().square() * self.c[..., None]).sum(-2) + self.l2

    def cast(self, dtype: torch.dtype) -> GlmHessian:
        """The same operator with x and c rounded to `dtype`."""
        return GlmHessian(self.x.to(dtype), self.c.to(dtype), self.l2, self.intercept)


@final
@dataclass(frozen=True, eq=False)
class DampedOperator:
    """H v = B v + damping v: the same problem, another linear system.

    A solver given this operator reports residuals of the *damped* system; certificates need the undamped
    residual, `true_residual(operator.base, rhs, value)`.

    Args:
        base: the operator B.
        damping: >= 0.

    >>> import torch
    >>> DampedOperator(MatrixOperator(torch.eye(2)), damping=0.5).matvec(torch.tensor([1.0, 2.0])).tolist()
    [1.5, 3.0]
    """

    base: LinearOperator
    damping: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.damping) and self.damping >= 0):
            raise DataError(f"damping must be finite and >= 0, got {self.damping}; 0 leaves the operator as it is")

    @property
    def shape(self) -> torch.Size:
        """`(*b, p, p)`."""
        return self.base.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of both sides of a product."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """Where products are computed."""
        return self.base.device

    def matvec(self, v: Tensor) -> Tensor:
        """(B + damping I) v for `v (*k, *b, p)`."""
        return torch.add(self.base.matvec(v), v, alpha=self.damping)
