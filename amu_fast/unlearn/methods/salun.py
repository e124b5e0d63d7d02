"""SalUn: random labels, but only where the forget rows' gradient is large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from amu_fast.errors import DataError
from amu_fast.unlearn.curvature import Named, batch_gradients, trained_parameters
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.rounds import Rounds
from amu_fast.unlearn.streams import Redrawn, any_label, generator
from amu_fast.unlearn.training import Augment, Run, Values

if TYPE_CHECKING:
    from amu_fast.rows import Rows
    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result


@dataclass(frozen=True)
class SalUn:
    """Random labels on the parameters of largest |Σ_f ∇CE|; in each round a forget pass, then a retain pass.

    The sum over forget batches keeps its signs before the absolute value is taken, in eval mode, and the threshold is
    one for all parameters together. Other weights keep their values exactly, and their momentum is nil: the release
    leaked both, by weight decay and momentum, until late.

    Source: Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency", ICLR 2024 (arXiv
    2310.12508); half of the parameters, lr .013, 10 epochs, batch 256, fresh uniform labels in each pass.

    Args:
        epochs: Budget in retain-set sizes; the saliency costs a pass over the forget rows.
        rounds: Rounds in it.
        share: Of the parameters that may move, in (0, 1].
        optimiser: SGD options.
        batch_size: Rows a batch.
        augment: Changes training inputs, `augment(inputs, generator)`.
        callbacks: Called after every step.
    """

    epochs: float = 10.0
    rounds: int = 10
    share: float = 0.5
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=0.013))
    batch_size: int = 256
    augment: Augment | None = None
    callbacks: tuple[Callback, ...] = ()
    name: str = "salun"

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise DataError(f"share must lie in (0, 1], got {self.share}; .5 is usual")

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A copy of `model` whose salient weights learnt wrong labels for the forget rows.

        Raises:
            DataError: Unusable model or splits.
            SolveError: Training diverged.
        """
        run = Run(self, model, splits, seed)
        forget = run.rows("forget")
        masks = saliency(run.model, forget, self.share, self.batch_size)
        run.meter.add(len(forget))
        salient = Salient(run, masks)
        draw = partial(any_label, classes=run.classes, rng=generator(seed, "random_labels"))
        forgotten, retain = run.stream("forget", Redrawn(forget, draw)), run.stream("retain", run.rows("retain"))
        rounds = Rounds(run, self.rounds, max(1, forgotten.batches_per_pass), forgotten.batch_size, self.rounds)

        def step() -> Values:
            if rounds.forgets():
                return salient.update(lambda: {"forget_loss": run.descend(forgotten)["retain_loss"]})
            return salient.update(lambda: run.descend(retain))

        return run.train(step)


def saliency(model: nn.Module, rows: Rows, share: float, batch_size: int) -> dict[str, Tensor]:
    """Per parameter a mask of the `share` of all weights with the largest |sum of batch gradients of CE|."""
    total: Named = {name: torch.zeros_like(p) for name, p in trained_parameters(model).items()}
    for size, gradient in batch_gradients(model, rows, batch_size):
        for name, part in gradient.items():
            total[name].add_(part, alpha=size)
    flat = torch.cat([part.abs().flatten() for part in total.values()])
    kept = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    kept[flat.topk(max(1, round(share * len(flat)))).indices] = True
    pieces = kept.split([part.numel() for part in total.values()])
    return {name: piece.view_as(part) for (name, part), piece in zip(total.items(), pieces, strict=True)}


class Salient:
    """Steps that leave masked weights exactly as they were, whatever decay and momentum want."""

    def __init__(self, run: Run, masks: dict[str, Tensor]) -> None:
        self._run = run
        self._parts = [(p, masks[name], p.detach().clone()) for name, p in trained_parameters(run.model).items()]

    def update(self, gradient: Callable[[], Values]) -> Values:
        """One optimiser step on what `gradient()` leaves in `.grad`, within the mask."""
        values = self._run.update(gradient)
        with torch.no_grad():
            for parameter, mask, before in self._parts:
                parameter.copy_(torch.where(mask, parameter, before))
                momentum = self._run.optimiser.state.get(parameter, {}).get("momentum_buffer")
                if momentum is not None:
                    momentum.mul_(mask)
        return values
