"""Rows from which units are drawn: images, labels and their noise."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.unlearn.streams import generator


@dataclass(frozen=True, eq=False)
class Population:
    """Rows from which units are drawn.

    Attributes:
        name: Of the data set.
        inputs: (N, channels, height, width) float32; over all N rows each channel has mean 0 and deviation 1.
        labels: (N,) int64, label noise included.
        clean_labels: (N,) int64 as distributed.
        classes: C; labels lie in [0, C).
        digest: SHA-256 of pixels and both labels.
    """

    name: str
    inputs: Tensor
    labels: Tensor
    clean_labels: Tensor
    classes: int
    digest: str

    @staticmethod
    def of(name: str, images: np.ndarray, labels: np.ndarray, classes: int = 10) -> Population:
        """From raw images, grey (N, height, width) or colour (N, channels, height, width), and labels (N,).

        Raises:
            DataError: Shapes that do not match, or a label outside [0, classes).
        """
        if images.ndim not in (3, 4) or labels.shape != images.shape[:1] or len(images) == 0:
            raise DataError(f"{name} has images {images.shape} and labels {labels.shape}; need (n[, c], h, w) and (n,)")
        outside = labels[(labels < 0) | (labels >= classes)]
        if outside.size:
            raise DataError(f"{name} has the label {outside[0]}, outside [0, {classes}); the label file does not fit")
        inputs = torch.from_numpy(images.astype(np.float32)).reshape(len(images), -1, *images.shape[-2:])
        for channel, pixels in enumerate([images] if images.ndim == 3 else images.swapaxes(0, 1)):
            mean, deviation = float(pixels.mean(dtype=np.float64)), float(pixels.std(dtype=np.float64))
            if deviation == 0.0:
                raise DataError(f"{name} has constant images (all {mean:g}); the image file is damaged")
            inputs[:, channel].sub_(mean).div_(deviation)
        y = torch.from_numpy(labels.astype(np.int64))
        return Population(name, inputs, y, y, classes, _digest(images, labels))

    def __len__(self) -> int:
        return len(self.labels)

    def with_noise(self, share: float, seed: int = 0) -> Population:
        """Annotator noise on *all* rows, so that forget, validation and test rows keep one distribution.

        Each row, with probability `share`, gets one of the other C − 1 classes, uniformly.

        Args:
            share: In [0, 1).
            seed: Of the noise, a property of the population and not of a unit.
        """
        if not 0.0 <= share < 1.0:
            raise DataError(f"the share of noisy labels must lie in [0, 1), got {share}; .05 to .1 is usual")
        if share == 0.0:
            return self
        rng = generator(seed, "label_noise")
        wrong = torch.rand(len(self), generator=rng) < share
        shift = torch.randint(1, self.classes, (len(self),), generator=rng)
        labels = torch.where(wrong, (self.clean_labels + shift) % self.classes, self.clean_labels)
        return replace(self, labels=labels, digest=_digest(self.digest.encode(), labels.numpy()))


def _digest(first: np.ndarray | bytes, second: np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in (first, second):
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
