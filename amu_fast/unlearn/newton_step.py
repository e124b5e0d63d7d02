"""What a step along H^-1 g needs of any model and any loss: classifiers and language models alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from amu_fast.linalg import FlatParameters, LinearOperator
from amu_fast.linalg.module_function import ModuleFunction

Layers = tuple[str, ...] | Callable[[str, Tensor], bool]


def layer_choice(layers: Layers | None) -> Callable[[str, Tensor], bool]:
    """A predicate of (name, parameter): trainable, and named by one of the patterns or below a module so named."""
    if layers is None:
        return lambda name, parameter: parameter.requires_grad
    if callable(layers):
        return lambda name, parameter: parameter.requires_grad and layers(name, parameter)
    patterns = tuple(p for layer in layers for p in (layer, f"{layer}.*"))
    return lambda name, parameter: parameter.requires_grad and any(fnmatchcase(name, p) for p in patterns)


def mean_gradient(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    batches: Iterable[Any],
    parameters: Any = None,
    rows: Callable[[Any], float] | None = None,
) -> tuple[Tensor, Tensor]:
    """A mean loss over all rows of all batches, and its gradient as one flat vector; of any model and any loss.

    Args:
        model: The module, in the mode in which it is to be evaluated.
        loss: `loss(model, batch)`, the mean over the batch's rows.
        batches: Iterable again and again.
        parameters: As in `amu_fast.linalg.HessianOperator`.
        rows: A batch's weight; None: the length of its first tensor.

    Returns:
        The loss, (), and its gradient (p,).
    """
    function = ModuleFunction.of(model, loss, batches, parameters, rows, "auto")
    flat = function.parameters
    total = torch.zeros(flat.numel, dtype=flat.dtype, device=flat.device)
    mean = torch.zeros(1, dtype=flat.dtype, device=flat.device)
    for batch, weight in function.weighted():
        values = function.values(requires_grad=True)
        value = function(values, batch)
        total += weight * flat.join(torch.autograd.grad(value, values, allow_unused=True, materialize_grads=True))
        mean += weight * value.detach()
    return function.reduced(mean).squeeze(0), function.reduced(total)


def apply(parameters: FlatParameters, update: Tensor, scale: float) -> None:
    """θ += scale · update (p,), in place."""
    with torch.no_grad():
        for tensor, part in zip(parameters.tensors, parameters.split(update), strict=True):
            tensor.add_(part, alpha=scale)


class Counting:
    """An operator that counts its products."""

    def __init__(self, base: LinearOperator) -> None:
        self.base, self.products = base, 0
        self.shape, self.dtype, self.device = base.shape, base.dtype, base.device

    def matvec(self, v: Tensor) -> Tensor:
        """H v, counted once per right-hand side."""
        self.products += v.numel() // v.shape[-1]
        return self.base.matvec(v)
