"""Gradient ascent on the forget rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.training import Augment, Run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result


@dataclass(frozen=True)
class GradientAscent:
    """max CE_forget, and nothing that holds the rest: stop early.

    Source: Graves, Nagisetty, Ganesh, "Amnesiac Machine Learning", AAAI 2021, and Thudi et al., "Unrolling SGD",
    EuroS&P 2022; usual constants lr 1e-6 to 1e-3, 5 passes over the forget rows.

    Args:
        epochs: Budget in *retain-set* sizes: the default is 5 passes over a forget set a tenth as large.
        optimiser: SGD options.
        batch_size: Forget rows a batch.
        augment: Changes training inputs, `augment(inputs, generator)`.
        callbacks: Called after every step.
    """

    epochs: float = 0.5
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=1e-4, schedule="constant"))
    batch_size: int = 128
    augment: Augment | None = None
    callbacks: tuple[Callback, ...] = ()
    name: str = "gradient_ascent"

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A copy of `model` that climbed the forget rows' loss.

        Raises:
            DataError: Unusable model or splits.
            SolveError: The ascent overflowed.
        """
        run = Run(self, model, splits, seed)
        forget = run.stream("forget", run.rows("forget"))

        def gradient() -> dict[str, Tensor]:
            loss = run.loss(forget)
            (-loss).backward()
            return {"forget_loss": loss.detach()}

        return run.train(lambda: run.update(gradient))
