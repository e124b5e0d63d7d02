"""The one training loop that every method shares: budget, learning rate, seeds, modes, record, callbacks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from amu_fast.report.provenance import Provenance
from amu_fast.report.report import Cost, MethodRecord, Report
from amu_fast.unlearn.batch_norm import refresh_statistics, tracking_layers
from amu_fast.unlearn.callbacks import Callback, ClosingCallback, StepState
from amu_fast.unlearn.door import check_model, check_result, class_logits, device_of, kept_modes, own_randomness
from amu_fast.unlearn.history import History
from amu_fast.unlearn.meter import FORWARD_SHARE, GradientSamples
from amu_fast.unlearn.optimise import Optimiser, Sgd
from amu_fast.unlearn.result import Result
from amu_fast.unlearn.streams import BatchStream, Fetches, generator

if TYPE_CHECKING:
    from amu_fast.rows import Rows
    from amu_fast.splits import Splits

Values = Mapping[str, Tensor]
Augment = Callable[[Tensor, torch.Generator], Tensor]

_REFRESH_SHARE = 0.02  # of the budget, for batch-norm statistics at the end of a game


class Recipe(Protocol):
    """The fields that a method must have for `Run`."""

    @property
    def name(self) -> str:
        """Name of the method."""

    @property
    def epochs(self) -> float:
        """Budget in retain-set sizes."""

    @property
    def optimiser(self) -> Sgd:
        """Optimiser of the retain steps."""

    @property
    def batch_size(self) -> int:
        """Rows of a retain batch."""

    @property
    def augment(self) -> Augment | None:
        """Changes training inputs, drawing from the given generator; never applied to auditing rows."""

    @property
    def callbacks(self) -> tuple[Callback, ...]:
        """Called after every step."""


class Run:
    """One run of a method on a copy of the model.

    A run ends when its budget of gradient samples is used up (the last step may pass it by less than its own rows) or
    a callback returns "stop". Same seed, same threads: the same bits on the CPU.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, splits: Splits, seed: int) -> None:
        self.recipe, self.splits, self.seed = recipe, splits, seed
        self.classes = check_model(model, splits.rows("retain"))
        self.model = deepcopy(model)
        self.device = device_of(self.model)
        self.meter = GradientSamples.of_epochs(recipe.epochs, len(splits.rows("retain")))
        self.optimiser = Optimiser(recipe.optimiser, self.model.parameters())
        self.history = History(recipe.name)
        self.steps = 0
        self._lr = recipe.optimiser.lr
        self._finish: Callable[[], None] | None = None
        self._augment_rng = generator(seed, "augment")

    def rows(self, name: str) -> Rows:
        """Rows of one part with their labels checked against the model's outputs."""
        return self.splits.rows(name).with_classes(self.classes)

    def stream(self, name: str, rows: Fetches, batch_size: int | None = None, *, distinct: bool = False) -> BatchStream:
        """Shuffled batches of `rows` whose order depends on the seed and on `name` only."""
        size = self.recipe.batch_size if batch_size is None else batch_size
        return BatchStream(rows, size, generator(self.seed, name), self.device, distinct=distinct)

    def loss(self, stream: BatchStream) -> Tensor:
        """Mean cross-entropy of the next batch in the model's current (train) mode; charges its rows."""
        inputs, labels = self.draw(stream)
        self.meter.add(len(labels))
        return functional.cross_entropy(class_logits(self.model(inputs), len(labels)), labels)

    def descend(self, stream: BatchStream, weight: float = 1.0) -> dict[str, Tensor]:
        """Add the gradient of weight · CE of the next batch to `.grad`; returns the loss, as "retain_loss"."""
        loss = self.loss(stream)
        (weight * loss).backward()
        return {"retain_loss": loss.detach()}

    def refresh_at_end(self, stream: BatchStream) -> None:
        """Re-estimate batch-norm statistics when the steps are over; the rows are charged now, so the budget holds.

        A game moves weights faster than moving averages follow. Without batch-norm nothing is done or charged.
        """
        if tracking_layers(self.model):
            rows = min(len(self.splits.rows("retain")), _REFRESH_SHARE * self.meter.budget / FORWARD_SHARE)
            batches = max(1, round(rows / stream.batch_size))
            self.meter.add(batches * stream.batch_size, backward=False)
            self.at_end(lambda: refresh_statistics(self.model, lambda: self.draw(stream)[0], batches))

    def at_end(self, action: Callable[[], None]) -> None:
        """Do this to the model when the steps are over, in place of what was to be done before."""
        self._finish = action

    def update(self, gradient: Callable[[], Values], optimiser: Optimiser | None = None) -> Values:
        """One optimiser step on the gradients that `gradient()` leaves in `.grad`; returns what it returned."""
        optimiser = self.optimiser if optimiser is None else optimiser
        start = self.meter.progress
        optimiser.zero_grad()
        values = gradient()
        optimiser.step(start, self.meter.progress - start)
        self._lr = optimiser.lr
        return values

    def train(self, step: Callable[[], Values], steps: float = math.inf) -> Result:
        """Call `step` until the run ends, at most `steps` times; waits for the device every 32nd step and at the end.

        Raises:
            SolveError: A loss, payoff or weight became NaN or infinite; names the step.
        """
        began = time.perf_counter()
        stopped = False
        try:
            with kept_modes(self.model), own_randomness(self.device, self.seed):
                self.model.train()
                while not self.meter.exhausted and not stopped and self.steps < steps:
                    values = step()
                    self.steps += 1
                    self.history.add(self.steps, {"used": self.meter.used, "lr": self._lr}, values)
                    stopped = self._tell(values)
                if self._finish is not None:
                    self._finish()
        finally:
            for callback in self.recipe.callbacks:
                if isinstance(callback, ClosingCallback):
                    callback.on_end()
        history = self.history.columns()
        check_result(self.model, self.recipe.name, self.steps)
        cost = Cost(self.meter.used, self.meter.budget, time.perf_counter() - began, self.steps, stopped)
        self.model.zero_grad()
        recipe = self.recipe
        report = Report(MethodRecord.of(recipe), self.seed, history, cost, Provenance.collect(recipe))
        return Result(self.model, report)

    def draw(self, stream: BatchStream) -> tuple[Tensor, Tensor]:
        """The next batch, augmented; charges nothing."""
        inputs, labels = stream.next()
        if self.recipe.augment is not None:
            inputs = self.recipe.augment(inputs, self._augment_rng)
        return inputs, labels

    def _tell(self, values: Values) -> bool:
        """Show the step to the callbacks, whose evaluations move neither modes nor random numbers; True: stop."""
        if not self.recipe.callbacks:
            return False
        used, budget = self.meter.used, self.meter.budget
        state = StepState(self.recipe.name, self.model, self.steps, used, budget, self._lr, values)
        with kept_modes(self.model), own_randomness(self.device, self.seed):
            answers = [callback.on_step(state) for callback in self.recipe.callbacks]
        return "stop" in answers
