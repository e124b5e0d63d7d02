"""What the GLM operators share: checks at the door, products with X~ = [x, 1], and their batching rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.ops import losses
from amu_fast.ops.schemas import NAMESPACE


def check_tensors(
    x: Tensor, rows: Mapping[str, Tensor], vectors: Mapping[str, Tensor], intercept: bool, trailing: int = 0
) -> None:
    """Raise unless the tensors of one operator fit together.

    Args:
        x: (*b, n, d).
        rows: name -> (*b, n) and `trailing` further dimensions.
        vectors: name -> (*b, p) and `trailing` further dimensions, p = d + 1 with an intercept, else d.
        intercept: whether a column of ones is appended to `x`.
        trailing: 1 where the operator has several right-hand sides, else 0.

    Raises:
        DataError: a shape or a dtype does not fit.
    """
    tensors = {"x": x, **rows, **vectors}
    names = ", ".join(tensors)
    cores = [2] + [1 + trailing] * (len(tensors) - 1)
    if any(t.ndim < core for t, core in zip(tensors.values(), cores, strict=True)):
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors.values())
        raise DataError(f"{names} need at least {', '.join(map(str, cores))} dimensions, got {shapes}")
    n, d = x.shape[-2:]
    at = -1 - trailing
    for name, t in rows.items():
        if t.shape[at] != n:
            raise DataError(f"{name} needs one entry per row of x, got {name} {tuple(t.shape)} and x {tuple(x.shape)}")
    for name, t in vectors.items():
        if t.shape[at] != d + intercept:
            per = "column of x and one for the intercept" if intercept else "column of x"
            raise DataError(f"{name} needs one entry per {per}, got {name} {tuple(t.shape)} and x {tuple(x.shape)}")
    dtypes = [t.dtype for t in tensors.values()]
    if x.dtype not in (torch.float32, torch.float64) or any(dtype != x.dtype for dtype in dtypes):
        raise DataError(f"{names} must all be float32 or all float64, got {', '.join(map(str, dtypes))}")


def check_l2(l2: float) -> None:
    """Raise `DataError` unless l2 >= 0."""
    if not l2 >= 0:
        raise DataError(f"l2 must be >= 0, got {l2}; a negative one makes the product indefinite")


def check_loss(loss: int, width: float) -> None:
    """Raise `DataError` unless `loss` is a kind of `amu_fast.ops.losses` and the width is usable."""
    if loss not in (losses.LOGISTIC, losses.SQUARED_HINGE, losses.HUBERISED_HINGE):
        raise DataError(f"loss must be 0 (logistic), 1 (squared hinge) or 2 (Huberised hinge), got {loss}")
    if loss == losses.HUBERISED_HINGE and not width > 0:
        raise DataError(f"width must be > 0, got {width}; the Huberised hinge is rounded over that many margins")


def product(x: Tensor, v: Tensor, intercept: bool) -> Tensor:
    """X~ v for x (*b, n, d) and v (*b, p): (*b, n)."""
    return product_columns(x, v.unsqueeze(-1), intercept).squeeze(-1)


def product_columns(x: Tensor, v: Tensor, intercept: bool) -> Tensor:
    """X~ v for x (*b, n, d) and v (*b, p, k): (*b, n, k)."""
    return x @ v[..., :-1, :] + v[..., -1:, :] if intercept else x @ v


def transposed_product(x: Tensor, r: Tensor, intercept: bool) -> Tensor:
    """X~^T r for x (*b, n, d) and r (*b, n): (*b, p)."""
    return transposed_product_columns(x, r.unsqueeze(-1), intercept).squeeze(-1)


def transposed_product_columns(x: Tensor, r: Tensor, intercept: bool) -> Tensor:
    """X~^T r for x (*b, n, d) and r (*b, n, k): (*b, p, k)."""
    y = x.mT @ r
    return torch.cat([y, r.sum(-2, keepdim=True).expand(*y.shape[:-2], 1, -1)], -2) if intercept else y


def outer(rows: Sequence[Tensor], vectors: Sequence[Tensor], d: int) -> Tensor:
    """The sum of rows_i vectors_i^T without the intercept's column: (*b, n, d) from (*b, n) and (*b, p) each."""
    left = torch.stack(torch.broadcast_tensors(*rows), -1)
    return left @ torch.stack(torch.broadcast_tensors(*vectors), -2)[..., :d]


def batching_rule(name: str, cores: Sequence[int], outputs: int = 1) -> Callable[..., Any]:
    """A rule for `torch.func.vmap` where batch dimensions broadcast anyway.

    The mapped dimension goes in front of the batch dimensions, all brought to one rank.

    Args:
        name: of the operator; its first arguments are tensors, one per entry of `cores`.
        cores: how many trailing dimensions of each tensor are no batch dimensions.
        outputs: how many tensors the operator returns.

    Returns:
        The rule, as `registry.define` takes it.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        tensors, dims = args[: len(cores)], in_dims[: len(cores)]
        ranks = [t.ndim - core - (dim is not None) for t, core, dim in zip(tensors, cores, dims, strict=True)]
        moved = []
        for t, rank, dim in zip(tensors, ranks, dims, strict=True):
            if dim is not None:
                t = t.movedim(dim, 0)
                t = t.reshape(t.shape[:1] + (1,) * (max(ranks) - rank) + t.shape[1:])
            moved.append(t)
        bare = getattr(getattr(torch.ops, NAMESPACE), name).default
        return bare(*moved, *args[len(cores) :]), 0 if outputs == 1 else (0,) * outputs

    return rule
