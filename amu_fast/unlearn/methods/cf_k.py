"""CF-k: fine-tune the last k layers on the retain rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from amu_fast.unlearn.last_layers import LastLayers
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.training import Augment, Run

if TYPE_CHECKING:
    from torch import nn

    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result


@dataclass(frozen=True)
class CfK:
    """min CE_retain over the last k layers, from the trained weights: catastrophic forgetting, k layers deep.

    Layers are convolutions and linear ones, counted from the output. Statistics of batch-norm before them stand still
    (the release lets them move).

    Source: Goel et al., "Towards Adversarial Evaluations for Inexact Machine Unlearning" (arXiv 2201.06640); 30 epochs
    on CIFAR-10, 62 on CIFAR-100, k 10 of ResNet-110, lr .1 to .005 by warm restarts, momentum .9, batch 64, weight
    decay 5e-5, gradient norm clipped at 10.

    Args:
        epochs: Budget in retain-set sizes; a step of the last layers counts like one of all.
        k: Layers, >= 1.
        optimiser: SGD options.
        batch_size: Rows a batch.
        augment: Changes training inputs, `augment(inputs, generator)`.
        callbacks: Called after every step.
    """

    epochs: float = 30.0
    k: int = 2
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=0.1, weight_decay=5e-5, schedule="restarts", clip=10.0))
    batch_size: int = 64
    augment: Augment | None = None
    callbacks: tuple[Callback, ...] = ()
    name: str = "cf_k"

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A copy of `model` whose last layers were trained further on the retain rows.

        Raises:
            DataError: Unusable model or splits, or a k that the model does not have.
            SolveError: Training diverged.
        """
        last = LastLayers.of(model, self.k)
        run = Run(self, last.model, splits, seed)
        retain = run.stream("retain", run.rows("retain"))
        return last.train(run, lambda: run.update(lambda: run.descend(retain)))
