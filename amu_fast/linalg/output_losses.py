"""Losses as functions of a module's outputs, with their Hessian B in the outputs.

    CrossEntropy       l = mean_i -log softmax(z_i)[y_i]     B u = p o u - p <p, u>, over the number of counted rows
    MeanSquaredError   l = mean (z - t)^2                    B u = 2 u / entries
    any other          l(z, batch), a scalar mean            B u by double backward at z

Means are over a batch; the operators weigh batches by their rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (its usual name)

#: u -> B u at fixed outputs.
Curvature = Callable[[Tensor], Tensor]


@runtime_checkable
class OutputLoss(Protocol):
    """A loss that knows its Hessian in the outputs."""

    def __call__(self, outputs: Tensor, batch: Any) -> Tensor:
        """The mean over the batch's rows, a scalar."""

    def curvature(self, outputs: Tensor, batch: Any) -> Curvature:
        """The map u -> B u for u of the outputs' shape."""

    def rows(self, batch: Any) -> float:
        """How many rows the mean is over; waits for the device where labels must be counted."""


@final
@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy over the last dimension of the outputs.

    Args:
        labels: the batch's classes, int64 of the outputs' shape without the last dimension; -100 is not counted. For
            a language model outputs and labels must be shifted against each other already.

    >>> import torch
    >>> loss = CrossEntropy(labels=lambda batch: batch)
    >>> loss.curvature(torch.zeros(1, 2), torch.tensor([0]))(torch.tensor([[1.0, 0.0]])).tolist()
    [[0.25, -0.25]]
    """

    labels: Callable[[Any], Tensor]

    def __call__(self, outputs: Tensor, batch: Any) -> Tensor:
        """The mean over counted rows."""
        return F.cross_entropy(outputs.flatten(0, -2), self.labels(batch).flatten())

    def curvature(self, outputs: Tensor, batch: Any) -> Curvature:
        """It does not depend on the classes, only on which rows count."""
        p = outputs.detach().softmax(-1)
        counted = self.labels(batch) != -100
        scale = (counted.to(p.dtype) / counted.sum().clamp(min=1))[..., None]

        def product(u: Tensor) -> Tensor:
            pu = p * u
            return scale * (pu - p * pu.sum(-1, keepdim=True))

        return product

    def rows(self, batch: Any) -> float:
        """Counted labels."""
        return float((self.labels(batch) != -100).sum())


@final
@dataclass(frozen=True)
class MeanSquaredError:
    """The mean over all entries of (outputs - targets)^2.

    Args:
        targets: of the outputs' shape, from the batch.
    """

    targets: Callable[[Any], Tensor]

    def __call__(self, outputs: Tensor, batch: Any) -> Tensor:
        """The mean over rows and outputs."""
        return F.mse_loss(outputs, self.targets(batch))

    def curvature(self, outputs: Tensor, batch: Any) -> Curvature:
        """A multiple of the identity."""
        return lambda u: u * (2.0 / u.numel())

    def rows(self, batch: Any) -> float:
        """Length of the targets."""
        return float(self.targets(batch).shape[0])


@final
@dataclass(frozen=True)
class Averaged:
    """The mean of outputs that are losses themselves, one per row.

    B = I/n makes J^T B J the empirical Fisher matrix (1/n) sum_i g_i g_i^T.
    """

    rows: Callable[[Any], float]

    def __call__(self, outputs: Tensor, batch: Any) -> Tensor:
        """The mean."""
        return outputs.mean()

    def curvature(self, outputs: Tensor, batch: Any) -> Curvature:
        """I/n."""
        return lambda u: u / u.numel()


def curvature_of(loss: Any, outputs: Tensor, batch: Any) -> Curvature:
    """By the loss' own method, else by double backward at the outputs, whose graph is kept."""
    if isinstance(loss, OutputLoss):
        return loss.curvature(outputs, batch)
    with torch.enable_grad():
        z = outputs.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(z, batch), z, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros_like

    def product(u: Tensor) -> Tensor:
        return torch.autograd.grad(gradient, z, u, retain_graph=True)[0]

    return product
