"""Products with J^T B J: J the Jacobian of a module's outputs z, B the Hessian of a loss in the outputs.

    double_backward      J v = d<J^T u, v>/du, the graphs of z and J^T u made once      8 n p flops a product
    jvp                  J v by forward mode, then J^T; no graph is kept                12 n p flops
    finite_difference    J v ~ (z(w + h v) - z(w - h v)) / 2h, then J^T                 10 n p flops, first derivatives

n rows, p parameters, matrix products only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.func import jvp

from amu_fast.linalg.module_checks import Sighting, outputs
from amu_fast.linalg.module_function import ModuleFunction
from amu_fast.linalg.output_losses import Curvature, curvature_of
from amu_fast.linalg.products import add_up, coarsest, seen, shifted, some, steps, untouched_grads, whole, whole_norm


@dataclass(frozen=True, eq=False)
class _Graph:
    """z, u and J^T u of one batch, and B times the batch's weight."""

    outputs: Tensor
    u: Tensor
    pulled: list[tuple[int, Tensor]]
    curvature: Curvature
    weight: float


@final
class KeptSandwich:
    """Both Jacobian products through graphs that are made once."""

    def __init__(self, function: ModuleFunction, loss: Any, sighting: Sighting | None = None) -> None:
        self.function, self.loss = function, loss
        self.values = function.values(requires_grad=True)
        self.graphs = [self._graph(*pair, None if i else sighting) for i, pair in enumerate(function.weighted())]

    def _graph(self, batch: Any, weight: float, sighting: Sighting | None) -> _Graph:
        z = outputs(seen(self.function, self.values, batch, sighting))
        u = torch.zeros_like(z).requires_grad_()
        pulled = torch.autograd.grad(z, self.values, u, create_graph=True, materialize_grads=True)
        used = [(i, part) for i, part in enumerate(pulled) if part.requires_grad]
        return _Graph(z, u, used, curvature_of(self.loss, z, batch), weight)

    def product(self, parts: list[Tensor]) -> Tensor:
        """J^T B (J v), batch by batch."""
        total: Tensor | None = None
        for g in self.graphs:
            (jv,) = torch.autograd.grad([part for _, part in g.pulled], g.u, [parts[i] for i, _ in g.pulled],
                                        retain_graph=True)  # fmt: skip
            bjv = g.curvature(jv)
            pulled = torch.autograd.grad(g.outputs, self.values, bjv, retain_graph=True, materialize_grads=True)
            total = add_up(self.function, total, pulled, g.weight)
        return some(total)


@final
class ForwardSandwich:
    """J v by forward mode, J^T by a backward of its own."""

    def __init__(self, function: ModuleFunction, loss: Any) -> None:
        self.function, self.loss = function, loss

    def product(self, parts: list[Tensor]) -> Tensor:
        """J^T B (J v), batch by batch."""
        total: Tensor | None = None
        for batch, weight in self.function.weighted():

            def forward(*values: Tensor, batch: Any = batch) -> Tensor:
                return self.function(values, batch)

            jv = jvp(forward, tuple(self.function.values()), tuple(parts))[1]
            pulled = pulled_back(self.function, self.function.values(), jv, self.loss, batch)
            total = add_up(self.function, total, pulled, weight)
        return some(total)


@final
class ShiftedSandwich:
    """J v from outputs at shifted parameters, J^T by a backward."""

    def __init__(self, function: ModuleFunction, loss: Any) -> None:
        self.function, self.loss = function, loss
        self.size = whole_norm(function)

    def product(self, parts: list[Tensor]) -> Tensor:
        """J^T B (J v), batch by batch."""
        function, total = self.function, None
        h, inverse = steps(self.size, parts, coarsest(function))
        if function.parameters.sharded:
            return self._in_place(parts, h, inverse)
        for batch, weight in function.weighted():
            jv = along(function, function.values(), parts, batch, h, inverse)
            total = add_up(function, total, pulled_back(function, function.values(), jv, self.loss, batch), weight)
        return some(total)

    def _in_place(self, parts: list[Tensor], h: Tensor, inverse: Tensor) -> Tensor:
        function = self.function
        with torch.no_grad(), shifted(function, parts, h):
            ahead = [function.in_place(batch) for batch, _ in function.weighted()]
        with torch.no_grad(), shifted(function, parts, -h):
            behind = [function.in_place(batch) for batch, _ in function.weighted()]
        with untouched_grads(function):
            for (batch, weight), plus, minus in zip(function.weighted(), ahead, behind, strict=True):
                with torch.enable_grad():
                    z = function.in_place(batch)
                jv = ((plus - minus) * (inverse / 2)).to(z.dtype)
                z.backward(weight * curvature_of(self.loss, z, batch)(jv))
            gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in function.parameters.tensors]
            return function.parameters.join([whole(gradient.detach()) for gradient in gradients])


def along(
    function: ModuleFunction,
    values: Sequence[Tensor],
    parts: Sequence[Tensor],
    batch: Any,
    h: Tensor,
    inverse: Tensor,
    constants: Any = None,
) -> Tensor:
    """J v ~ (z(w + h v) - z(w - h v)) / 2h."""
    with torch.no_grad():
        ahead, behind = (
            function([w + part * step for w, part in zip(values, parts, strict=True)], batch, constants)
            for step in (h, -h)
        )
    return (ahead - behind) * (inverse / 2)


def pulled_back(
    function: ModuleFunction, values: Sequence[Tensor], jv: Tensor, loss: Any, batch: Any, constants: Any = None
) -> tuple[Tensor, ...]:
    """J^T B (J v) for one batch."""
    leaves = [value.detach().requires_grad_() for value in values]
    with torch.enable_grad():
        z = outputs(function(leaves, batch, constants))
    bjv = curvature_of(loss, z, batch)(jv.to(z.dtype))
    return torch.autograd.grad(z, leaves, bjv, materialize_grads=True)
