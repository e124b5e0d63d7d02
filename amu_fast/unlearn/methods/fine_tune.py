"""Fine-tuning on the retain rows: forgetting by neglect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.training import Augment, Run

if TYPE_CHECKING:
    from torch import nn

    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result


@dataclass(frozen=True)
class FineTune:
    """min CE_retain from the trained weights.

    Source: the fine-tuning baseline of Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020;
    usual constants lr .01–.05, 5–10 epochs. It is the game with weight 0 and no auditing.

    Args:
        epochs: Budget in retain-set sizes.
        optimiser: SGD options.
        batch_size: Rows a batch.
        augment: Changes training inputs, `augment(inputs, generator)`.
        callbacks: Called after every step.
    """

    epochs: float = 5.0
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=0.01))
    batch_size: int = 128
    augment: Augment | None = None
    callbacks: tuple[Callback, ...] = ()
    name: str = "fine_tune"

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A copy of `model`, trained further on the retain rows.

        Raises:
            DataError: Unusable model or splits.
            SolveError: Training diverged.
        """
        run = Run(self, model, splits, seed)
        retain = run.stream("retain", run.rows("retain"))
        return run.train(lambda: run.update(lambda: run.descend(retain)))
