"""Selective synaptic dampening: shrink the weights that matter to the forget rows and to nobody else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from amu_fast.errors import DataError
from amu_fast.unlearn.curvature import batch_fisher, trained_parameters
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.streams import generator
from amu_fast.unlearn.training import Run, Values

if TYPE_CHECKING:
    from torch import nn

    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result


@dataclass(frozen=True)
class SelectiveDampening:
    """Where F_f > α F_D: θ ← θ · min(λ F_D/F_f, 1), F the mean squared gradient of a batch, in eval mode.

    F_D is that of all training rows, forget rows included, as in the release. Made for forget sets of about a hundred
    rows; known to fail on large ones.

    Source: Foster, Schoepf, Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
    Dampening", AAAI 2024 (arXiv 2308.07707); α 10 (5 for transformers), λ 1, batches of 128.

    Args:
        epochs: Budget in retain-set sizes, at most: where it is short, F_D is taken over as many rows as it pays for.
        selection: α > 0.
        dampening: λ > 0.
        batch_size: Rows of a batch of F.
        callbacks: Called after the step.
    """

    epochs: float = 2.0
    selection: float = 10.0
    dampening: float = 1.0
    batch_size: int = 128
    callbacks: tuple[Callback, ...] = ()
    name: str = "ssd"

    augment = None

    def __post_init__(self) -> None:
        for option in ("selection", "dampening"):
            if not 0.0 < getattr(self, option) < float("inf"):
                raise DataError(f"{option} must be > 0 and finite, got {getattr(self, option)}")

    @property
    def optimiser(self) -> Sgd:
        """No optimiser."""
        return Sgd(lr=1.0, momentum=0.0, weight_decay=0.0)

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A copy of `model` with dampened weights. Records dampened, the share of weights.

        Raises:
            DataError: Unusable model or splits, or a budget that does not pay for the forget rows twice.
        """
        run = Run(self, model, splits, seed)
        return run.train(lambda: self._step(run), steps=1)

    def _step(self, run: Run) -> Values:
        retain, forget = run.rows("retain"), run.rows("forget")
        left = int(run.meter.budget) - 2 * len(forget)
        if left < self.batch_size and left < len(retain):
            raise DataError(
                f"epochs {self.epochs} pay for {int(run.meter.budget)} gradients; the {len(forget)} forget rows take "
                f"two each and F_D needs a batch of {self.batch_size} retain rows more; raise epochs"
            )
        drawn = torch.randperm(len(retain), generator=generator(run.seed, "dampening"))[:left]
        everything, wanted = (batch_fisher(run.model, rows, self.batch_size) for rows in (retain.take(drawn), forget))
        run.meter.add(len(drawn) + 2 * len(forget))
        shares = _batches(len(drawn), self.batch_size), _batches(len(forget), self.batch_size)
        dampened = torch.zeros((), device=run.device)
        with torch.no_grad():
            for name, parameter in trained_parameters(run.model).items():
                of_forget = wanted[name]
                of_all = (shares[0] * everything[name] + shares[1] * of_forget) / sum(shares)
                chosen = of_forget > self.selection * of_all
                factor = (self.dampening * of_all / of_forget.clamp_min(torch.finfo(of_all.dtype).tiny)).clamp_max(1.0)
                parameter *= torch.where(chosen, factor, 1.0)
                dampened += chosen.sum()
        size = sum(p.numel() for p in trained_parameters(run.model).values())
        return {"dampened": dampened / size}


def _batches(rows: int, batch_size: int) -> int:
    return -(-rows // batch_size)
