"""Networks small enough for a table on two cores, large enough to memorise what they are trained on."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from amu_fast.errors import DataError


class SmallCnn(nn.Module):
    """Two 3 × 3 convolutions of stride 2 with batch-norm, a hidden layer, class logits.

    (n, channels, s, s) → (n, w, s/2, s/2) → (n, 2w, s/4, s/4) → h → C, sizes rounded up. Weights lie in channels-last
    order, which is a sixth faster on CPUs.

    Args:
        side: Height and width of the images, s.
        classes: C.
        width: Channels of the first convolution, w.
        hidden: Units of the hidden layer, h.
        seed: Of the initial weights; torch's global generator stays as it was.
        channels: Of the images: 1 grey, 3 colour.

    >>> SmallCnn(side=8, width=4, hidden=16)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        side: int = 28,
        classes: int = 10,
        width: int = 16,
        hidden: int = 128,
        seed: int = 0,
        channels: int = 1,
    ) -> None:
        if min(side, classes, width, hidden, channels) < 1:
            raise DataError(
                f"all sizes must be >= 1, got side {side}, classes {classes}, width {width}, {hidden}, {channels}"
            )
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            self.layers = _layers(side, classes, width, hidden, channels)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (n, C)."""
        return self.layers(inputs)


def _layers(side: int, classes: int, width: int, hidden: int, channels: int) -> nn.Sequential:
    quarter = math.ceil(math.ceil(side / 2) / 2)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
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


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions with batch-norm beside the identity: relu(x' + f(x)), x' = x or a 1 × 1 convolution of it.

    (n, a, s, s) → (n, b, s/stride, s/stride).

    Args:
        inputs: Channels a.
        outputs: Channels b.
        stride: Of the first convolution; other than 1, or a ≠ b, makes the shortcut a convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """Activations of the block."""
        hidden = self.first_norm(self.first(inputs)).relu()
        return (self.second_norm(self.second(hidden)) + self.shortcut(inputs)).relu()


def resnet18(classes: int = 10, channels: int = 3, seed: int = 0) -> nn.Sequential:
    """ResNet-18 for small images: a 3 × 3 stem of stride 1 and no max-pooling; 11,173,962 parameters for 10 classes.

    (n, channels, s, s) → four stages of two blocks with 64, 128, 256, 512 channels at s, s/2, s/4, s/8 → mean → C.

    Source: He et al., CVPR 2016, in the form that the unlearning literature uses on CIFAR and SVHN.

    Args:
        classes: C.
        channels: Of the images.
        seed: Of the initial weights; torch's global generator stays as it was.
    """
    if min(classes, channels) < 1:
        raise DataError(f"classes and channels must be >= 1, got {classes} and {channels}")
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        layers: list[nn.Module] = [nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        widths = (64, 64, 128, 256, 512)
        for stage, (before, width) in enumerate(pairwise(widths)):
            layers += [ResidualBlock(before, width, 1 if stage == 0 else 2), ResidualBlock(width, width, 1)]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
