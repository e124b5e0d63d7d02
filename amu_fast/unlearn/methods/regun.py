"""ReGUn: on forget rows, answer as the original does on held-out rows of the same classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from amu_fast.audit.predict import predict
from amu_fast.errors import DataError
from amu_fast.unlearn.door import class_logits
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.streams import generator
from amu_fast.unlearn.training import Augment, Run, Values

if TYPE_CHECKING:
    from torch import nn

    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result


@dataclass(frozen=True)
class ReGUn:
    """min λ KL(q‖p_θ(x_f)) + (1 − λ) CE_retain, q the mean answer of the frozen original on held-out rows.

    The held-out rows are drawn for each forget batch with the batch's own class histogram, and q is one target for the
    whole batch. (The release's default draws them uniformly over classes; this is what the paper means.)

    Source: "Reference-Guided Machine Unlearning" (ReGUn); λ .5, lr .01, momentum .9, no weight decay, 10 epochs, one
    of them a pass over the forget rows.

    Args:
        epochs: Budget in retain-set sizes.
        weight: λ, in [0, 1].
        optimiser: SGD options.
        batch_size: Retain rows a batch, and forget rows at most.
        game_fraction: Share of the validation rows that are held-out rows here; the rest, V_tune, is never read (S16).
        split_seed: Seed of that cut.
        augment: Changes training inputs, `augment(inputs, generator)`.
        callbacks: Called after every step.
    """

    epochs: float = 5.0
    weight: float = 0.5
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=0.01, weight_decay=0.0))
    batch_size: int = 128
    game_fraction: float = 0.5
    split_seed: int = 0
    augment: Augment | None = None
    callbacks: tuple[Callback, ...] = ()
    name: str = "regun"

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight <= 1.0:
            raise DataError(f"weight must lie in [0, 1], got {self.weight}; .5 is usual")

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A copy of `model` that treats the forget rows as it treats rows it never saw.

        Raises:
            DataError: Unusable model or splits, or a forget class without held-out rows.
            SolveError: Training diverged.
        """
        run = Run(self, model, splits, seed)
        reference = HeldOutAnswers(run, self.split_seed, self.game_fraction)
        retain, forget = run.stream("retain", run.rows("retain")), run.stream("forget", run.rows("forget"))

        def gradient() -> Values:
            values = run.descend(retain, 1.0 - self.weight)
            inputs, labels = run.draw(forget)
            run.meter.add(len(labels))
            log_p = functional.log_softmax(class_logits(run.model(inputs), len(labels)), 1)
            target = reference.target(labels).expand_as(log_p)
            divergence = functional.kl_div(log_p, target, reduction="batchmean")
            (self.weight * divergence).backward()
            return {**values, "divergence": divergence.detach()}

        return run.train(lambda: run.update(gradient))


class HeldOutAnswers:
    """Probabilities of the frozen original on held-out rows, by class; one forward each, charged."""

    def __init__(self, run: Run, split_seed: int, fraction: float) -> None:
        rows = run.splits.split_validation(split_seed, fraction)[0].with_classes(run.classes)
        logits, labels = predict(run.model, rows, batch_size=1000)
        run.meter.add(len(rows), backward=False)
        self._p = logits.softmax(1)
        self._by_class = labels.argsort(stable=True)
        self._counts = labels.bincount(minlength=run.classes)
        self._starts = self._counts.cumsum(0) - self._counts
        self._rng = generator(run.seed, "held_out")
        forget = run.rows("forget").labels().unique().to(labels.device)
        missing = forget[self._counts[forget] == 0].tolist()
        if missing:
            raise DataError(
                f"the forget classes {missing} have no held-out row among {len(rows)} validation rows; add some, or "
                "raise game_fraction"
            )

    def target(self, labels: Tensor) -> Tensor:
        """(1, C): the mean answer on held-out rows drawn, with replacement, with the histogram of `labels` (b,)."""
        share = torch.rand(len(labels), generator=self._rng).to(labels.device).double()
        place = self._starts[labels] + (share * self._counts[labels]).long()
        return self._p[self._by_class[place]].mean(0, keepdim=True)
