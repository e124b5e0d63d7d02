"""The subspaces that a network's layers see of some inputs, and gradients that leave what lies in them alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from amu_fast.audit.predict import eval_mode
from amu_fast.errors import DataError

_LAYERS = (nn.Linear, nn.Conv2d)


def layer_inputs(model: nn.Module, batches: Iterator[Tensor]) -> dict[str, Tensor]:
    """Per linear or convolution layer the second moment (d, d) of the rows that its weight (out, d) multiplies.

    For a convolution, d is channels × window, and the rows are all windows of all inputs. In eval mode.

    Raises:
        DataError: No such layer, or a convolution with groups or padding other than zeros.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, _LAYERS) and m.weight.requires_grad}
    if not layers:
        raise DataError("the model has no trained linear or 2-d convolution layer whose input could be looked at")
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d) and (layer.groups != 1 or layer.padding_mode != "zeros"):
            raise DataError(
                f"convolution {name} has groups or padding other than zeros; freeze it, or use another method"
            )
    moments: dict[str, Tensor] = {}
    with eval_mode(model), torch.no_grad(), _watching(layers, moments):
        for inputs in batches:
            model(inputs)
    return moments


def basis(moment: Tensor, energy: float) -> Tensor:
    """(d, r): the eigenvectors of a second moment (d, d) that together carry `energy` of its trace.

    >>> basis(torch.diag(torch.tensor([8.0, 1.9, 0.1])), 0.95).shape
    torch.Size([3, 2])
    """
    values, vectors = torch.linalg.eigh(moment.double())
    values, vectors = values.flip(0).clamp_min(0.0), vectors.flip(1)
    carried = values.cumsum(0) / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    rank = min(len(values), 1 + int((carried < energy).sum()))
    return vectors[:, :rank].to(moment.dtype)


def project_out(gradient: Tensor, directions: Tensor) -> Tensor:
    """G − (G U) Uᵀ for a weight's gradient (out, ...) and U (d, r): outputs on span U stay as they are."""
    flat = gradient.flatten(1)
    return (flat - (flat @ directions) @ directions.T).view_as(gradient)


@contextmanager
def _watching(layers: dict[str, nn.Linear | nn.Conv2d], moments: dict[str, Tensor]) -> Iterator[None]:
    def watch(name: str) -> Any:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            rows = _rows(layer, given[0])
            moment = rows.T @ rows
            moments[name] = moments[name] + moment if name in moments else moment

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rows(layer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    assert isinstance(layer, nn.Conv2d)
    padding = layer.padding
    if isinstance(padding, str):
        spread = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        sides = [0, 0] if padding == "valid" else [s // 2 for s in spread]
        if padding == "same" and any(s % 2 for s in spread):
            raise DataError(
                "a convolution with padding='same' and an even window has no symmetric windows; use odd ones"
            )
        padding = tuple(sides)
    windows = functional.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride)
    return windows.transpose(1, 2).reshape(-1, windows.shape[1])
