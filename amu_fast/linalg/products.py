"""Products with second derivatives of a module's mean loss, by three routes.

    double_backward      H v = d<g(w), v>/dw, g and its graph made once        12 n p flops a product, memory of a graph
    jvp                  H v = dg(w + t v)/dt, forward over reverse             18 n p flops, no graph is kept
    finite_difference    H v ~ (g(w + h v) - g(w - h v)) / 2h                   12 n p flops, first derivatives only

n rows, p parameters, matrix products only. h = eps^{1/3} (1 + ||w||)/||v||: the error is about eps^{2/3} of the scales
of g and its third derivative, 2e-5 in float32 where both are of the size of H v.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, final

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import grad, jvp

from amu_fast.linalg.module_checks import Sighting, scalar, watched
from amu_fast.linalg.module_function import ModuleFunction, reshard


class Route(Protocol):
    """How local products are computed; weighted sums over this rank's batches."""

    def product(self, parts: list[Tensor]) -> Tensor:
        """The product `(p,)` with a vector given by its parts."""


def add_up(function: ModuleFunction, total: Tensor | None, parts: Sequence[Tensor], weight: float = 1.0) -> Tensor:
    """Sum total + weight * parts as a flat vector; None is zero, and nothing is multiplied by one."""
    if total is None:
        total = function.parameters.join(parts)
        return total if weight == 1.0 else total.mul_(weight)
    torch._foreach_add_(function.parameters.views(total), [part.to(total.dtype) for part in parts], alpha=weight)
    return total


@final
class KeptGraphs:
    """Double backward: the gradient's graph of every batch is made once, a product is one backward through it."""

    def __init__(self, function: ModuleFunction, sighting: Sighting | None = None) -> None:
        self.function = function
        self.values = function.values(requires_grad=True)
        self.graphs = [self._first(*pair, None if i else sighting) for i, pair in enumerate(function.weighted())]

    def _first(self, batch: Any, weight: float, sighting: Sighting | None) -> list[tuple[int, GradientEdge]]:
        """The weighted gradient's graph, for those parameters whose gradient depends on any; its values are let go."""
        loss = scalar(seen(self.function, self.values, batch, sighting))
        scaled = loss if weight == 1.0 else weight * loss
        gradient = torch.autograd.grad(scaled, self.values, create_graph=True, materialize_grads=True)
        return [(i, get_gradient_edge(part)) for i, part in enumerate(gradient) if part.requires_grad]

    def product(self, parts: list[Tensor]) -> Tensor:
        """One backward through each kept graph."""
        total: Tensor | None = None
        for graph in self.graphs:
            if graph:
                outputs = torch.autograd.grad(
                    [edge for _, edge in graph],
                    self.values,
                    [parts[i] for i, _ in graph],
                    retain_graph=True,
                    materialize_grads=True,
                )
                total = add_up(self.function, total, outputs)
        return self.function.parameters.join([torch.zeros_like(p) for p in parts]) if total is None else total


@final
class ForwardOverReverse:
    """`jvp` of `grad`: three passes again in every product, and nothing kept between products."""

    def __init__(self, function: ModuleFunction) -> None:
        self.function = function

    def product(self, parts: list[Tensor]) -> Tensor:
        """The gradient's derivative along the vector, batch by batch."""
        function, total = self.function, None
        everything = tuple(range(len(parts)))
        for batch, weight in function.weighted():

            def loss(*values: Tensor, batch: Any = batch) -> Tensor:
                return function(values, batch)

            along = jvp(grad(loss, argnums=everything), tuple(function.values()), tuple(parts))[1]
            total = add_up(function, total, along, weight)
        return some(total)


@final
class CentralDifference:
    """Two gradients at shifted parameters; sharded parameters are written in place and restored bit for bit."""

    def __init__(self, function: ModuleFunction) -> None:
        self.function = function
        self.size = whole_norm(function)

    def product(self, parts: list[Tensor]) -> Tensor:
        """The difference of two gradients over their distance; 0 for v = 0."""
        h, inverse = steps(self.size, parts, coarsest(self.function))
        difference = self._gradient(parts, h)
        difference -= self._gradient(parts, -h)
        return difference.mul_(inverse / 2)

    def _gradient(self, parts: list[Tensor], h: Tensor) -> Tensor:
        function, total = self.function, None
        if function.parameters.sharded:
            with shifted(function, parts, h):
                return in_place_gradient(function)
        for batch, weight in function.weighted():
            values = [torch.add(w, part * h) for w, part in zip(function.values(), parts, strict=True)]
            total = add_up(function, total, gradient_at(function, values, batch), weight)
        return some(total)


def gradient_at(
    function: ModuleFunction, values: Sequence[Tensor], batch: Any, constants: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, ...]:
    """df/dw at other values."""
    leaves = [value.detach().requires_grad_() for value in values]
    with torch.enable_grad():
        return torch.autograd.grad(function(leaves, batch, constants), leaves, materialize_grads=True)


def seen(function: ModuleFunction, values: list[Tensor], batch: Any, sighting: Sighting | None) -> Tensor:
    """Value with its graph, watched for what has no second derivative."""
    if sighting is None:
        return function(values, batch)
    with watched(function):
        result = function(values, batch)
    sighting.look(result, "double_backward")
    return result


def whole_norm(function: ModuleFunction) -> Tensor:
    """||w|| in float64, of whole parameters."""
    squares = [torch.linalg.vector_norm(w.detach()).double().square() for w in function.parameters.tensors]
    return torch.stack([whole(square) for square in squares]).sum().sqrt()


def steps(size: Tensor, parts: Sequence[Tensor], eps: float) -> tuple[Tensor, Tensor]:
    """(h, 1/h) with h = eps^{1/3} (1 + ||w||)/||v||, both 0 for v = 0; float64, on the device."""
    length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part).double() for part in parts]))
    h = torch.where(length > 0, eps ** (1 / 3) * (1 + size) / length, 0.0)
    return h, torch.where(length > 0, 1 / h, 0.0)


def coarsest(function: ModuleFunction) -> float:
    """The eps of the coarsest parameter: a shift must survive its rounding."""
    return max(torch.finfo(w.dtype).eps for w in function.parameters.tensors)


def whole(tensor: Any) -> Tensor:
    """All entries of a tensor that may be sharded over ranks."""
    gathered: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered


@contextmanager
def shifted(function: ModuleFunction, parts: Sequence[Tensor], h: Tensor) -> Iterator[None]:
    """Inside, the parameters themselves are w + h v; afterwards w again, bit for bit."""
    reshard(function.subject)
    tensors = [local(w) for w in function.parameters.tensors]
    saved = [tensor.clone() for tensor in tensors]
    # Restored to the bit, they count as unchanged: for the other operators over them, and for graphs of the caller.
    with torch.autograd._unsafe_preserve_version_counter(tuple(tensors)):
        try:
            for w, tensor, part in zip(function.parameters.tensors, tensors, parts, strict=True):
                tensor.add_((_shard(part, w) * h).to(tensor.dtype))
            yield
        finally:
            reshard(function.subject)
            for tensor, before in zip(tensors, saved, strict=True):
                tensor.copy_(before)


def in_place_gradient(function: ModuleFunction) -> Tensor:
    """The weighted gradient by `backward`, whose hooks gather and average shards; `.grad` is put back afterwards."""
    with untouched_grads(function):
        for batch, weight in function.weighted():
            with torch.enable_grad():
                (weight * function.in_place(batch)).backward()
        parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in function.parameters.tensors]
        return function.parameters.join([whole(part.detach()) for part in parts])


@contextmanager
def untouched_grads(function: ModuleFunction) -> Iterator[None]:
    """Inside, every `.grad` begins as None; afterwards it is what it was."""
    tensors: Any = function.tracked
    before = [tensor.grad for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.grad = None
        yield
    finally:
        for tensor, grad_before in zip(tensors, before, strict=True):
            tensor.grad = grad_before


def local(tensor: Any) -> Tensor:
    """This rank's storage of a tensor that may be sharded."""
    inner = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return inner.detach()


def _shard(part: Tensor, like: Any) -> Tensor:
    """This rank's part of a whole tensor, without communication."""
    if not hasattr(like, "device_mesh"):
        return part
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(part, like.device_mesh, like.placements, src_data_rank=None).to_local()


def some(total: Tensor | None) -> Tensor:
    """A sum over at least one batch."""
    assert total is not None
    return total
