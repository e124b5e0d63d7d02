"""MSG: re-initialise the convolution weights that the forget rows pull on and the retain rows do not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from amu_fast.errors import DataError
from amu_fast.unlearn.curvature import batch_gradients, trained_parameters
from amu_fast.unlearn.door import own_randomness
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.streams import generator
from amu_fast.unlearn.training import Augment, Run, Values

if TYPE_CHECKING:
    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Msg:
    """In each convolution, fresh weights where |Σ_r ∇CE − Σ_f ∇CE| is smallest; then fine-tuning on retain rows.

    The sums run over as many retain rows as there are forget rows, drawn at random, in eval mode. Fresh weights follow
    Kaiming's normal law by fan-out; while fine-tuning, the gradients of the other convolution weights count a tenth.

    Source: the second solution of the NeurIPS 2023 unlearning challenge, as reviewed by Cadet et al., "Deep Unlearn"
    (arXiv 2410.01276); 30 %, 5 epochs, SGD 1e-3, batch 64, linear warm-up over (E + 1)//2 epochs, linear decay.

    Args:
        epochs: Budget in retain-set sizes; the sums cost twice the forget rows.
        share: Of each convolution's weights that is drawn anew, in (0, 1).
        kept_rate: Factor on the gradients of the others.
        optimiser: SGD options.
        batch_size: Rows a batch.
        augment: Changes training inputs, `augment(inputs, generator)`.
        callbacks: Called after every step.
    """

    epochs: float = 5.0
    share: float = 0.3
    kept_rate: float = 0.1
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=1e-3, schedule="linear", warmup=0.6))
    batch_size: int = 64
    augment: Augment | None = None
    callbacks: tuple[Callback, ...] = ()
    name: str = "msg"

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise DataError(f"share must lie in (0, 1), got {self.share}; .3 is usual")
        if not 0.0 <= self.kept_rate <= 1.0:
            raise DataError(f"kept_rate must lie in [0, 1], got {self.kept_rate}; .1 is usual")

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A copy of `model` with part of its convolutions learnt anew.

        Raises:
            DataError: Unusable model or splits, or a model without trained convolutions.
            SolveError: Training diverged.
        """
        run = Run(self, model, splits, seed)
        weights = _convolutions(run.model)
        fresh = self._reinitialise(run, weights)
        rates = [(weight, torch.where(fresh[name], 1.0, self.kept_rate)) for name, weight in weights.items()]
        retain = run.stream("retain", run.rows("retain"))

        def gradient() -> Values:
            values = run.descend(retain)
            for weight, rate in rates:
                if weight.grad is not None:
                    weight.grad.mul_(rate)
            return values

        return run.train(lambda: run.update(gradient))

    def _reinitialise(self, run: Run, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Draw the chosen weights anew in place; per weight the mask of them."""
        retain, forget = run.rows("retain"), run.rows("forget")
        drawn = torch.randperm(len(retain), generator=generator(run.seed, "msg"))[: len(forget)]
        pull = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for rows, sign in ((retain.take(drawn), 1.0), (forget, -1.0)):
            run.meter.add(len(rows))
            for size, gradient in batch_gradients(run.model, rows, self.batch_size):
                for name, total in pull.items():
                    total.add_(gradient[name], alpha=sign * size)
        fresh = {name: _smallest(total.abs(), self.share) for name, total in pull.items()}
        with torch.no_grad(), own_randomness(run.device, run.seed):
            for name, weight in weights.items():
                new = nn.init.kaiming_normal_(torch.empty_like(weight), mode="fan_out", nonlinearity="relu")
                weight.copy_(torch.where(fresh[name], new, weight))
        return fresh


def _convolutions(model: nn.Module) -> dict[str, Tensor]:
    trained = trained_parameters(model)
    names = [f"{n}.weight" if n else "weight" for n, m in model.named_modules() if isinstance(m, CONVOLUTIONS)]
    weights = {name: trained[name] for name in names if name in trained}
    if not weights:
        raise DataError("MSG draws convolution weights anew, and the model has no trained convolution; use another one")
    return weights


def _smallest(values: Tensor, share: float) -> Tensor:
    """Mask of the `share` of the entries that are smallest."""
    mask = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    mask[values.flatten().topk(max(1, round(share * values.numel())), largest=False).indices] = True
    return mask.view_as(values)
