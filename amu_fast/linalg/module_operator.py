"""What the operators over modules share: one flat vector, several right-hand sides, ranks, stale graphs, noise."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from amu_fast.errors import DataError
from amu_fast.linalg.flat import FlatParameters
from amu_fast.linalg.module_checks import Mode, Sighting, explained, refuse_layers, watched
from amu_fast.linalg.module_function import ModuleFunction, reshard
from amu_fast.linalg.products import Route
from amu_fast.linalg.system import plain_arithmetic

#: Below this cosine between a product in half precision and in float64, the product is called noise.
AGREEMENT = 0.9


@dataclass(frozen=True)
class Kind:
    """What distinguishes the operators.

    Args:
        route: builds what computes products, for a function, in a mode; it looks for what cannot be differentiated.
        reference: (function, values, vector parts, batch, constants) -> one batch's product from first derivatives.
        check: refuses what the function returns.
    """

    route: Callable[[ModuleFunction, Mode, Sighting | None], Route]
    reference: Callable[
        [ModuleFunction, Sequence[Tensor], Sequence[Tensor], Any, Mapping[str, Tensor]], Sequence[Tensor]
    ]
    check: Callable[[Any], Tensor]


class ModuleOperator:
    """A `LinearOperator` over the chosen parameters of a module. The base of three; not made by itself."""

    def __init__(self, function: ModuleFunction, mode: Mode, kind: Kind) -> None:
        self._function, self._mode, self._kind = function, mode, kind
        self._route: Route | None = None
        self._stamp: object = None
        self.refresh()

    @property
    def parameters(self) -> FlatParameters:
        """What the entries of the vectors are; `parameters.named(v)` gives a vector's parts by name."""
        return self._function.parameters

    @property
    def shape(self) -> torch.Size:
        """`(p, p)`."""
        return torch.Size((self.parameters.numel, self.parameters.numel))

    @property
    def dtype(self) -> torch.dtype:
        """Of vectors and products; parameters in half precision have vectors in float32."""
        return self.parameters.dtype

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return self.parameters.device

    def refresh(self) -> None:
        """Build the operator at the parameters as they are now, and check the module again.

        Raises:
            DataError: batch statistics, random numbers, sharded parameters in a mode but "finite_difference".
            BackendError: a layer cannot be differentiated as the mode needs.

        Warns:
            UserWarning: products in half precision are noise.
        """
        # The old graphs go before new ones are made.
        self._route = None
        refuse_layers(self._function, self._mode)
        sighting = Sighting()
        with plain_arithmetic(self.device), torch.enable_grad(), explained():
            if self._mode != "double_backward":
                self._look(sighting)
            self._route = self._kind.route(self._function, self._mode, sighting)
        self._stamp = self._function.stamp()
        if sighting.half and not self.parameters.sharded:
            self._measure_noise()

    def matvec(self, v: Tensor) -> Tensor:
        """The product with `v (*k, p)`; under torch.distributed every rank must ask for the same one.

        Raises:
            DataError: a parameter has changed since the operator was built, or v has another length.
        """
        if v.shape[-1:] != self.shape[-1:]:
            raise DataError(f"v must have shape (*k, {self.shape[-1]}), got {tuple(v.shape)}; it is one flat vector")
        if self._stamp != self._function.stamp():
            raise DataError("parameters have changed since the operator was built; call refresh()")
        with plain_arithmetic(self.device), explained():
            if v.dim() == 1:
                product = self._local(v)
            else:
                rows = [self._local(row) for row in v.reshape(-1, v.shape[-1])]
                product = torch.stack(rows).reshape(v.shape) if rows else torch.zeros_like(v)
            return self._function.reduced(product)

    def _local(self, v: Tensor) -> Tensor:
        if self._route is None:
            raise DataError("the operator could not be built; see the error of refresh()")
        return self._route.product(self.parameters.split(v))

    def _look(self, sighting: Sighting) -> None:
        """One forward of the first batch, for the modes that keep no graph."""
        function, batch = self._function, next(iter(self._function.batches))
        with watched(function):
            if function.parameters.sharded:
                with torch.no_grad():
                    result = function.in_place(batch)
                reshard(function.subject)
            else:
                result = function(function.values(requires_grad=True), batch)
        self._kind.check(result)
        sighting.look(result, self._mode)

    def _measure_noise(self) -> None:
        """Compare the first batch's product with the same in float64, which autocast leaves alone."""
        function, batch = self._function, next(iter(self._function.batches))
        one = replace(function, batches=[batch], weights=(1.0,), group=None)
        v = torch.randn(function.parameters.numel, generator=torch.Generator().manual_seed(0))
        parts = function.parameters.split(v.to(self.device, self.dtype))
        subject = function.subject
        buffers = subject.named_buffers() if isinstance(subject, nn.Module) else ()
        constants = {name: widened(tensor) for name, tensor in (*function.constants.items(), *buffers)}
        wide, wide_parts = ([tensor.double() for tensor in tensors] for tensors in (function.values(), parts))
        with plain_arithmetic(self.device):
            with torch.enable_grad():
                route = self._kind.route(one, self._mode, None)
            got = route.product(parts).double()
            expected = self._kind.reference(function, wide, wide_parts, widened(batch), constants)
        flat = torch.cat([part.reshape(-1) for part in expected])
        cosine = float(torch.nn.functional.cosine_similarity(flat, got, dim=0))
        if not cosine >= AGREEMENT:
            warnings.warn(
                f"a product in half precision has cosine {cosine:.2f} with the same in float64: it is mostly rounding "
                "noise; take Hessian products in float32 (model.float(), and no autocast inside the loss)",
                UserWarning,
                stacklevel=4,
            )


def widened(part: Any) -> Any:
    """Floating-point tensors of a tensor, dict, list or tuple in float64."""
    if isinstance(part, Tensor):
        return part.double() if part.is_floating_point() else part
    if isinstance(part, dict):
        return {key: widened(value) for key, value in part.items()}
    if type(part) in (list, tuple):
        return type(part)(widened(value) for value in part)
    return part
