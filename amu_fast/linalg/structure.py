"""An operator's matrix, diagonal and lower-precision copy: by its own method where it has one, else by products.

    to_dense(H) = [H e_1, ..., H e_p]        diagonal(H)_j = e_j^T H e_j        cast(H)(v) = round(H(widen v))

A class offers `dense()`, `diagonal()` or `cast(dtype)` where that is cheaper than products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.linalg.operators import DampedOperator, LinearOperator


@runtime_checkable
class _HasDense(Protocol):
    def dense(self) -> Tensor: ...


@runtime_checkable
class _HasDiagonal(Protocol):
    def diagonal(self) -> Tensor: ...


@runtime_checkable
class _HasCast(Protocol):
    def cast(self, dtype: torch.dtype) -> LinearOperator: ...


def to_dense(operator: LinearOperator) -> Tensor:
    """The matrix of an operator.

    Args:
        operator: shape `(*b, p, p)`.

    Returns:
        `(*b, p, p)`; by p products in one call when the operator has no `dense()` of its own.

    >>> import torch
    >>> from amu_fast.linalg import MatrixOperator
    >>> to_dense(DampedOperator(MatrixOperator(torch.ones(2, 2)), 1.0)).tolist()
    [[2.0, 1.0], [1.0, 2.0]]
    """
    *batch, p, _ = operator.shape
    eye = torch.eye(p, dtype=operator.dtype, device=operator.device)
    if isinstance(operator, DampedOperator):
        return to_dense(operator.base) + operator.damping * eye
    if isinstance(operator, _HasDense):
        return operator.dense()
    unit = eye.reshape(p, *[1] * len(batch), p).expand(p, *batch, p)
    return operator.matvec(unit).movedim(0, -1)


def diagonal(operator: LinearOperator) -> Tensor:
    """The diagonal of an operator whose class knows it cheaply.

    Args:
        operator: shape `(*b, p, p)`.

    Returns:
        `(*b, p)`.

    Raises:
        DataError: the class has no `diagonal()`; p products would cost more than a Jacobi preconditioner
            saves.
    """
    if isinstance(operator, DampedOperator):
        return diagonal(operator.base) + operator.damping
    if isinstance(operator, _HasDiagonal):
        return operator.diagonal()
    raise DataError(
        f"{type(operator).__name__} has no diagonal(); add that method, or use "
        "to_dense(operator).diagonal(dim1=-2, dim2=-1) where p products are affordable"
    )


@final
@dataclass(frozen=True, eq=False)
class _CastOperator:
    base: LinearOperator
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        return self.base.shape

    @property
    def device(self) -> torch.device:
        return self.base.device

    def matvec(self, v: Tensor) -> Tensor:
        return self.base.matvec(v.to(self.base.dtype)).to(self.dtype)


def cast(operator: LinearOperator, dtype: torch.dtype) -> LinearOperator:
    """The operator in another dtype: its data rounded where the class can, else its products rounded.

    >>> import torch
    >>> from amu_fast.linalg import MatrixOperator
    >>> cast(MatrixOperator(torch.eye(2, dtype=torch.float64)), torch.float32).dtype
    torch.float32
    """
    if operator.dtype == dtype:
        return operator
    if isinstance(operator, DampedOperator):
        return DampedOperator(cast(operator.base, dtype), operator.damping)
    if isinstance(operator, _HasCast):
        return operator.cast(dtype)
    return _CastOperator(operator, dtype)
