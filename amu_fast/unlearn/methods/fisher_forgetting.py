"""Fisher forgetting: noise where the retain rows do not mind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from amu_fast.errors import DataError
from amu_fast.unlearn.curvature import fisher, trained_parameters
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.streams import generator
from amu_fast.unlearn.training import Run, Values

if TYPE_CHECKING:
    from torch import Tensor, nn

    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result

_FLOOR = 1e-8


@dataclass(frozen=True)
class FisherForgetting:
    """θ += σ ∘ N(0, 1), σ² = α · min(1/(F + 1e-8), cap), F the Fisher matrix's diagonal on retain rows.

    σ² is averaged over the second dimension of each weight, and ten times as large for the last layer and for vectors.
    The paper may have σ ∝ F^(−1/4); this is what its code does.

    Source: Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020 (arXiv 1911.04933); α 1e-6,
    usual grid 1e-9 to 1e-5, caps 1e3 and 1e2 in the last layer.

    Args:
        epochs: Budget in retain-set sizes, at most; a row costs C gradients, so that budget · n/C rows are looked at.
        alpha: α > 0.
        cap: Largest 1/F.
        last_layer_cap: The same for parameters whose first dimension is the number of classes.
        batch_size: Rows whose gradients are held at once.
        callbacks: Called after the step.
    """

    epochs: float = 10.0
    alpha: float = 1e-6
    cap: float = 1e3
    last_layer_cap: float = 1e2
    batch_size: int = 32
    callbacks: tuple[Callback, ...] = ()
    name: str = "fisher_forgetting"

    augment = None

    def __post_init__(self) -> None:
        for option in ("alpha", "cap", "last_layer_cap"):
            if not 0.0 < getattr(self, option) < float("inf"):
                raise DataError(f"{option} must be > 0 and finite, got {getattr(self, option)}")

    @property
    def optimiser(self) -> Sgd:
        """No optimiser: the noise's scale stands where others have a learning rate."""
        return Sgd(lr=self.alpha, momentum=0.0, weight_decay=0.0)

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A noisy copy of `model`. Records noise_norm and fisher_rows.

        Raises:
            DataError: Unusable model or splits, a model that cannot be vectorised, or a budget below one row.
        """
        run = Run(self, model, splits, seed)
        return run.train(lambda: self._step(run), steps=1)

    def _step(self, run: Run) -> Values:
        retain = run.rows("retain")
        seen = min(len(retain), int(run.meter.budget / run.classes))
        if seen < 1:
            raise DataError(f"epochs {self.epochs} pay for no row at {run.classes} gradients each; raise epochs")
        drawn = torch.randperm(len(retain), generator=generator(run.seed, "fisher"))[:seen]
        diagonal = fisher(run.model, retain.take(drawn), self.batch_size)
        run.meter.add(seen * run.classes)
        rng = generator(run.seed, "noise")
        moved = torch.zeros((), device=run.device)
        with torch.no_grad():
            for name, parameter in trained_parameters(run.model).items():
                noise = torch.randn(parameter.shape, generator=rng).to(parameter)
                noise *= self.variance(diagonal[name], len(parameter) == run.classes).sqrt()
                parameter += noise
                moved += noise.square().sum()
        return {"noise_norm": moved.sqrt(), "fisher_rows": torch.tensor(float(seen))}

    def variance(self, diagonal: Tensor, last_layer: bool) -> Tensor:
        """σ² of one parameter, of the shape of its `diagonal`."""
        inverse = (diagonal + _FLOOR).reciprocal().clamp_max(self.last_layer_cap if last_layer else self.cap)
        if diagonal.ndim > 1:
            inverse = inverse.mean(1, keepdim=True).expand_as(diagonal)
        more = 10.0 if last_layer or diagonal.ndim == 1 else 1.0
        return self.alpha * more * inverse
