"""Retraining from scratch on the retain rows: what every other method is measured against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from amu_fast.errors import DataError
from amu_fast.unlearn.door import own_randomness
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.training import Augment, Run

if TYPE_CHECKING:
    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result

_SHOWN = 5


@dataclass(frozen=True)
class Retrain:
    """min CE_retain from fresh weights; no forget row is ever read.

    Source: exact unlearning; constants of the common recipe (SGD .1, ×.1 at 1/2 and 3/4 of 182 epochs, batch 256,
    weight decay 5e-4). On small tasks train as the original was trained.

    Args:
        epochs: Budget in retain-set sizes.
        optimiser: SGD options.
        batch_size: Rows a batch.
        init: Re-initialises the given copy in place, under the run's seed. None: `reset_parameters()` of every
            submodule; a constructor that changed the weights after that needs its own `init`. Submodules that hold
            nothing but frozen parameters keep them: unlearning never trained those.
        augment: Changes training inputs, `augment(inputs, generator)`.
        callbacks: Called after every step.
    """

    epochs: float = 182.0
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=0.1, schedule="steps"))
    batch_size: int = 256
    init: Callable[[nn.Module], None] | None = None
    augment: Augment | None = None
    callbacks: tuple[Callback, ...] = ()
    name: str = "retrain"

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A freshly initialised copy of `model`, trained on the retain rows.

        Raises:
            DataError: Unusable model or splits, or a submodule that cannot be re-initialised.
            SolveError: Training diverged.
        """
        run = Run(self, model, splits, seed)
        with own_randomness(run.device, seed):
            reinitialise(run.model, self.init)
        retain = run.stream("retain", run.rows("retain"))
        return run.train(lambda: run.update(lambda: run.descend(retain)))


def reinitialise(model: nn.Module, init: Callable[[nn.Module], None] | None = None) -> None:
    """Fresh weights in place, drawn from torch's global generator.

    Raises:
        DataError: Without `init`, when submodules with trainable parameters have no `reset_parameters`.
    """
    if init is not None:
        init(model)
        return
    trained = [(name, module) for name, module in model.named_modules() if _is_trained(module)]
    lacking = [f"{name or 'the model'} ({type(m).__name__})" for name, m in trained if _reset(m) is None]
    if lacking:
        raise DataError(
            f"{len(lacking)} submodules hold parameters but have no reset_parameters(): {', '.join(lacking[:_SHOWN])}; "
            "pass Retrain(init=...), a function that re-initialises the model in place"
        )
    for _, module in trained:
        reset = _reset(module)
        if reset is not None:
            reset()


def _reset(module: nn.Module) -> Callable[[], None] | None:
    """The module's own initialiser; attention calls it `_reset_parameters`."""
    return getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))


def _is_trained(module: nn.Module) -> bool:
    """Holds parameters of its own that training moves, or running statistics beside no parameters."""
    own = list(module.parameters(recurse=False))
    if own:
        return any(p.requires_grad for p in own)
    return isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
