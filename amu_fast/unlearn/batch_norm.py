"""Frozen batch-norm statistics that belong to the current weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_BUFFERS = ("running_mean", "running_var")


@contextmanager
def latest_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, eval mode normalises by the statistics of the latest train-mode batch instead of their moving average.

    In train mode batch-norm makes the retain loss blind to scales and shifts of its inputs, so nothing there holds back
    a game step that sees them through a moving average, which lags behind the weights: the game then pushes along them
    until the released model, in eval mode, is destroyed. Statistics of a batch at the same weights leave it little to
    gain. On leaving, the moving average r is as if nothing had happened: r + momentum · (latest − r), for one
    train-mode batch inside.

    >>> layer = nn.BatchNorm1d(1)
    >>> with latest_statistics(layer):
    ...     _ = layer(torch.tensor([[1.0], [3.0]]))
    ...     inside = layer.running_mean.item()
    >>> inside, round(layer.running_mean.item(), 4)
    (2.0, 0.2)
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.running_mean is not None]
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


def _share(layer: _BatchNorm) -> float:
    """Weight of the newest batch in the moving average; a cumulative average (momentum None) waits for the device."""
    return 1.0 / max(1, int(layer.get_buffer("num_batches_tracked"))) if layer.momentum is None else layer.momentum
