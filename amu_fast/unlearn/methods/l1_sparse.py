"""l1-sparse fine-tuning: fewer weights remember less."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from amu_fast.errors import DataError
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.training import Augment, Run, Values

if TYPE_CHECKING:
    from torch import nn

    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result


@dataclass(frozen=True)
class L1Sparse:
    """min CE_retain + γ(1 − q) ‖θ‖₁ over all trained parameters, q the share of the budget used up.

    The penalty falls in every step, where the release lets it fall once an epoch.

    Source: Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023 (arXiv 2304.04934); its constants
    are γ 5e-4, lr .01, 10 epochs, batch 256.

    Args:
        epochs: Budget in retain-set sizes.
        weight: γ ≥ 0.
        optimiser: SGD options.
        batch_size: Rows a batch.
        augment: Changes training inputs, `augment(inputs, generator)`.
        callbacks: Called after every step.
    """

    epochs: float = 10.0
    weight: float = 5e-4
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=0.01))
    batch_size: int = 256
    augment: Augment | None = None
    callbacks: tuple[Callback, ...] = ()
    name: str = "l1_sparse"

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight < math.inf:
            raise DataError(f"weight must be >= 0 and finite, got {self.weight}; 5e-4 is usual")

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A copy of `model`, trained further on the retain rows towards smaller weights.

        Raises:
            DataError: Unusable model or splits.
            SolveError: Training diverged.
        """
        run = Run(self, model, splits, seed)
        retain = run.stream("retain", run.rows("retain"))
        trained = [p for p in run.model.parameters() if p.requires_grad]

        def gradient() -> Values:
            strength = self.weight * max(0.0, 1.0 - run.meter.progress)
            values = run.descend(retain)
            with torch.no_grad():
                for parameter in trained:
                    if parameter.grad is not None:
                        parameter.grad.add_(parameter.sign(), alpha=strength)
                return {**values, "l1_norm": torch.stack([p.abs().sum() for p in trained]).sum()}

        return run.train(lambda: run.update(gradient))
