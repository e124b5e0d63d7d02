"""What a model answers on the rows of one part, in the order of the rows.

Two models are compared row by row (S6), so the order is part of the result: `Rows` undoes a loader's shuffling
and refuses a loader whose order or selection cannot be known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from amu_fast.errors import DataError
from amu_fast.rows import Part, Rows


def predict(model: nn.Module, rows: Part, batch_size: int = 256) -> tuple[Tensor, Tensor]:
    """Logits and labels of every row, without gradient and in eval mode.

    Args:
        model: called as `model(inputs)`; returns a logits tensor, or an object or dict with `logits`.
        rows: a tuple (inputs (n, ...), labels (n,)), a map-style data set of pairs, a DataLoader, or `Rows`.
        batch_size: rows per forward pass.

    Returns:
        logits (n, ...) and labels (n,), on the model's device. The mode of every submodule is as before.

    Raises:
        DataError: no rows, rows or outputs of another form, or a loader whose row order is unknowable.
    """
    part = Rows.of(rows)
    if batch_size < 1:
        raise DataError(f"batch_size must be >= 1, got {batch_size}")
    if len(part) == 0:
        raise DataError("predict got 0 rows; pass a part with at least one row")
    parameter = next(model.parameters(), None)
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    with eval_mode(model), torch.no_grad():
        for chunk in torch.arange(len(part)).split(batch_size):
            inputs, targets = part.fetch(chunk)
            device = inputs.device if parameter is None else parameter.device
            logits.append(logits_of(model(inputs.to(device))))
            labels.append(targets.to(device))
    return torch.cat(logits), torch.cat(labels)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule has its own former mode, not one mode for all."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def logits_of(output: Any) -> Tensor:
    """The logits in a model's output: a tensor, or the field `logits` of an object or dict.

    Raises:
        DataError: anything else, by its type.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise DataError(
        f"the model returned {_describe(output)}; return the logits tensor, or an object or dict with "
        f"'logits' (wrap the model in an nn.Module whose forward picks them)"
    )


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with keys {sorted(map(str, value))}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {[type(part).__name__ for part in value]}"
    return f"a {type(value).__name__}"
