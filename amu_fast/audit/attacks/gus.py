"""Gaussian poisons: noise added to training rows, looked for in the gradient afterwards. No shadow model is needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from amu_fast.audit.intervals import Interval, clopper_pearson
from amu_fast.audit.predict import eval_mode, logits_of
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.metrics import Array


@dataclass(frozen=True, eq=False)
class Poisons:
    """Planted rows; train on `poisoned`, then ask to forget them.

    Attributes:
        clean: (n, ...) inputs x0.
        noise: (n, ...) xi; keep it secret from the unlearner.
        labels: (n,) class labels.
    """

    clean: Tensor
    noise: Tensor
    labels: Tensor

    @property
    def poisoned(self) -> Tensor:
        """(n, ...) x0 + xi; not clipped, for clipping would spoil the statistic's distribution."""
        return self.clean + self.noise


@dataclass(frozen=True, eq=False)
class GusResult:
    """How much of the noise is still in the model.

    Attributes:
        name: the test's name.
        statistic: (n,) <xi, g>/(s |g|), g = gradient of the loss at the clean row: N(0, 1) each when forgotten. Below 0
            where the model knows the row: the loss falls towards x0 + xi.
        z: sqrt(n) times its mean, N(0, 1) when forgotten.
        p: two-sided p-value of z.
        tpr: share of rows with -statistic beyond the normal quantile of 1 - fpr; the threshold is known, so
            Clopper-Pearson holds. It is fpr when forgotten.
        in_game: whether such gradients were in the game.
    """

    name: str
    statistic: Array
    z: float
    p: float
    tpr: Interval
    in_game: bool = False


@dataclass(frozen=True)
class GaussianPoison:
    """Plant x0 + xi, xi ~ N(0, s^2 I), and test <xi, grad_x loss(x0)>/(s |grad|) against N(0, 1).

    Exact for any model that never saw xi: given the gradient, its product with independent noise is Gaussian.

    Attributes:
        variance: s^2; .32 on CIFAR-10 in the paper, with 750 rows.
        fpr: false-positive rate of the reported TPR.
        level: coverage of its interval.
        batch_size: rows per backward pass.
        in_game: whether such gradients were in the game.
        name: name in tables.

    Source: Pawelczyk et al. 2024 (arXiv 2406.17216).
    """

    variance: float = 0.32
    fpr: float = 0.01
    level: float = 0.95
    batch_size: int = 256
    in_game: bool = False
    name: str = "Gaussian poisons"

    def __post_init__(self) -> None:
        if not self.variance > 0 or not 0 < self.fpr < 1 or self.batch_size < 1:
            raise DataError(
                f"variance must be > 0, fpr in (0, 1) and batch_size >= 1, got {self.variance}, {self.fpr} and "
                f"{self.batch_size}"
            )

    def plant(self, inputs: Tensor, labels: Tensor, seed: int) -> Poisons:
        """Draw the noise for these rows, on the CPU, so that it is the same everywhere.

        Args:
            inputs: (n, ...) floating-point x0.
            labels: (n,) class labels; they stay as they are.
            seed: of the noise.
        """
        if not inputs.is_floating_point() or len(inputs) != len(labels) or not len(labels):
            raise DataError(
                f"poisons need floating-point inputs and one label each, got {inputs.dtype} {tuple(inputs.shape)} and "
                f"{len(labels)} labels"
            )
        rng = torch.Generator().manual_seed(seed)
        noise = torch.randn(inputs.shape, generator=rng, dtype=torch.float64) * math.sqrt(self.variance)
        return Poisons(inputs, noise.to(inputs), labels)

    def run(self, target: nn.Module, splits: Poisons) -> GusResult:
        """Test one model.

        Args:
            target: called as `model(inputs)`, in eval mode; its rows must not influence each other.
            splits: what was planted.

        Raises:
            DataError: a gradient is 0 or not finite.
        """
        from scipy.special import ndtr, ndtri

        statistic = self._statistic(target, splits)
        z = math.sqrt(len(statistic)) * float(statistic.mean())
        caught = float((-statistic > ndtri(1.0 - self.fpr)).sum())
        tpr = clopper_pearson(caught, len(statistic), self.level)
        return GusResult(self.name, statistic, z, float(2.0 * ndtr(-abs(z))), tpr, self.in_game)

    def _statistic(self, model: nn.Module, poisons: Poisons) -> Array:
        parts = []
        with eval_mode(model):
            for rows in torch.arange(len(poisons.labels)).split(self.batch_size):
                gradient = input_gradient(model, poisons.clean[rows], poisons.labels[rows]).double().flatten(1)
                noise = poisons.noise[rows].to(gradient).flatten(1)
                # scaled first: squares of the tiny gradients of a certain model underflow
                gradient = gradient / gradient.abs().amax(1, keepdim=True)
                parts.append((gradient * noise).sum(1) / gradient.norm(dim=1) / math.sqrt(self.variance))
        values = torch.cat(parts).cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise DataError(
                f"the gradient of row {bad[0]} is 0 or not finite ({len(bad)} such rows); a saturated model needs more "
                "precision: pass model.double() and double inputs"
            )
        return np.asarray(values)


def input_gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """(n, ...) gradient of each row's cross-entropy with respect to its own input; parameters get none."""
    parameter = next(model.parameters(), None)
    device = inputs.device if parameter is None else parameter.device
    x = inputs.detach().to(device).clone().requires_grad_()
    with torch.enable_grad():
        loss = functional.cross_entropy(logits_of(model(x)), labels.to(device), reduction="sum")
        return torch.autograd.grad(loss, x)[0]
