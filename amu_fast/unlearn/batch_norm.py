"""Batch-norm statistics that belong to the current weights, during the game and after it.

In train mode batch-norm makes the retain loss blind to scales and shifts of its inputs, so nothing there holds back a
game step that sees them, in eval mode, through a moving average. The average lags behind the weights, the game pushes
along what only the lag shows, and the released model, which normalises by the average too, is destroyed while its
train-mode loss stays low. Statistics of a batch at the same weights leave that push nothing to gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_BUFFERS = ("running_mean", "running_var")


@contextmanager
def latest_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, eval mode normalises by the statistics of the latest train-mode batch instead of their moving average.

    On leaving, the moving average r is as if nothing had happened: r + momentum · (latest − r), for one train-mode
    batch inside.

    >>> layer = nn.BatchNorm1d(1)
    >>> with latest_statistics(layer):
    ...     _ = layer(torch.tensor([[1.0], [3.0]]))
    ...     inside = layer.running_mean.item()
    >>> inside, round(layer.running_mean.item(), 4)
    (2.0, 0.2)
    """
    layers = [layer for layer in tracking_layers(model) if layer.training]
    averages = [[layer.get_buffer(name) for name in _BUFFERS] for layer in layers]
    saved = [[average.clone() for average in pair] for pair in averages]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    try:
        yield
    finally:
        for layer, momentum, pair, before in zip(layers, momenta, averages, saved, strict=True):
            layer.momentum = momentum
            share = _share(layer)
            for average, old in zip(pair, before, strict=True):
                average.copy_(torch.lerp(old, average, share))


def refresh_statistics(model: nn.Module, draw: Callable[[], Tensor], batches: int) -> None:
    """Replace the moving averages by the mean statistics of fresh train-mode batches at the current weights.

    Args:
        model: In train mode; layers that stay in eval mode keep their statistics.
        draw: Gives the next batch of inputs.
        batches: How many.

    Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021 (arXiv 2105.07576), "precise batch-norm".
    """
    layers = [layer for layer in tracking_layers(model) if layer.training]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    try:
        with torch.no_grad():
            for _ in range(batches):
                model(draw())
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def tracking_layers(model: nn.Module) -> list[_BatchNorm]:
    """Batch-norm layers with running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def _share(layer: _BatchNorm) -> float:
    """Weight of the newest batch in the moving average; a cumulative average (momentum None) waits for the device."""
    return 1.0 / max(1, int(layer.get_buffer("num_batches_tracked"))) if layer.momentum is None else layer.momentum
