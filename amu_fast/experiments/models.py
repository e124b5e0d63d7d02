"""Networks small enough for a table on two cores, large enough to memorise what they are trained on."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from amu_fast.errors import DataError


class SmallCnn(nn.Module):
    """Two 3 × 3 convolutions of stride 2 with batch-norm, a hidden layer, class logits.

    (n, 1, s, s) → (n, w, s/2, s/2) → (n, 2w, s/4, s/4) → h → C, sizes rounded up. Weights lie in channels-last
    order, which is a sixth faster on CPUs.

    Args:
        side: Height and width of the images, s.
        classes: C.
        width: Channels of the first convolution, w.
        hidden: Units of the hidden layer, h.
        seed: Of the initial weights; torch's global generator stays as it was.

    >>> SmallCnn(side=8, width=4, hidden=16)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """

    def __init__(self, side: int = 28, classes: int = 10, width: int = 16, hidden: int = 128, seed: int = 0) -> None:
        if min(side, classes, width, hidden) < 1:
            raise DataError(f"all sizes must be >= 1, got side {side}, classes {classes}, width {width}, {hidden}")
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            self.layers = _layers(side, classes, width, hidden)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (n, C)."""
        return self.layers(inputs)


def _layers(side: int, classes: int, width: int, hidden: int) -> nn.Sequential:
    quarter = math.ceil(math.ceil(side / 2) / 2)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * quarter**2, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )
