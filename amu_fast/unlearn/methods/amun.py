"""AMUN: fine-tune on near neighbours of the forget rows that the model itself gets wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from amu_fast.errors import DataError
from amu_fast.unlearn.adversarial import Perturbation
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.streams import Fetches, Joined
from amu_fast.unlearn.training import Run

if TYPE_CHECKING:
    from torch import nn

    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result


@dataclass(frozen=True)
class Amun:
    """min CE on retain ∪ forget ∪ {(x̂, ŷ)}: x̂ the nearest input found that the original calls ŷ ≠ y.

    The neighbour's wrong label is the model's own, so that confidence falls around the forget row without harm far
    from it. Without retain data, forget and neighbours alone; for very large forget sets the authors drop the forget
    rows.

    Source: Ebrahimpour-Boroojeny et al., "AMUN: Adversarial Machine Unlearning", ICML 2025 (arXiv 2503.00917); SGD
    .01 (1e-5 to .1), momentum .9, batch 128, 10 epochs, ×.1 each.

    Args:
        epochs: Budget in retain-set sizes; finding the neighbours counts, and may take `search_share` of it.
        perturbation: How they are found.
        search_share: In (0, 1); forget rows whose neighbour was not found by then go without.
        retain: Train on the retain rows too.
        forget: Train on the forget rows with their true labels too.
        optimiser: SGD options.
        batch_size: Rows a batch, all kinds mixed.
        callbacks: Called after every step.
    """

    epochs: float = 10.0
    perturbation: Perturbation = field(default_factory=Perturbation)
    search_share: float = 0.5
    retain: bool = True
    forget: bool = True
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=0.01))
    batch_size: int = 128
    callbacks: tuple[Callback, ...] = ()
    name: str = "amun"

    augment = None

    def __post_init__(self) -> None:
        if not 0.0 < self.search_share < 1.0:
            raise DataError(f"search_share must lie in (0, 1), got {self.search_share}; .5 is usual")

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A copy of `model`, trained on its own mistakes around the forget rows. Records neighbours.

        Raises:
            DataError: Unusable model or splits, or no neighbour was found.
            SolveError: Training diverged.
        """
        run = Run(self, model, splits, seed)
        allowance = self.search_share * run.meter.budget
        found = self.perturbation.of(run, run.rows("forget"), 2 * self.batch_size, allowance)
        parts: list[Fetches] = [found]
        if self.forget:
            parts.insert(0, run.rows("forget"))
        if self.retain:
            parts.insert(0, run.rows("retain"))
        joined = parts[0]
        for part in parts[1:]:
            joined = Joined(joined, part)
        stream = run.stream("retain", joined)
        neighbours = torch.tensor(float(len(found)))
        return run.train(lambda: run.update(lambda: {**run.descend(stream), "neighbours": neighbours}))
