"""SCRUB: away from the teacher on forget rows, towards it on retain rows; with rewinding, SCRUB+R."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from amu_fast.audit.predict import predict
from amu_fast.errors import DataError
from amu_fast.unlearn.door import class_logits
from amu_fast.unlearn.meter import cost
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.rounds import Rounds
from amu_fast.unlearn.training import Augment, Run, Values

if TYPE_CHECKING:
    from amu_fast.rows import Rows
    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result
    from amu_fast.unlearn.streams import BatchStream


@dataclass(frozen=True)
class Scrub:
    """In each of E rounds: while e ≤ m, max KL(t‖θ) on forget rows; then min γ CE + α KL(t‖θ) on retain rows.

    KL of the softened outputs of the frozen original t, times T², summed over classes, mean over the batch. The
    teacher is in eval mode, the student in train mode. A round is the release's epoch, or less if the budget is.

    With `rewind` (SCRUB+R) the model of every round is kept, and that one returned whose error on the forget rows is
    nearest to what a model has on rows that it never saw: the last model's error on validation rows of their classes.

    Source: Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023 (arXiv 2302.09880); γ .99, α .001,
    T 4, m 2 of 3 epochs, SGD 5e-4, batches of 512 and 256; for privacy γ 1, α .5, m 3 of 5, batches of 16 and 32.

    Args:
        epochs: Budget in retain-set sizes; a teacher's forward counts a third.
        rounds: E.
        max_rounds: m, the first rounds that climb.
        retain_share: γ.
        distillation: α.
        temperature: T > 0.
        rewind: SCRUB+R.
        optimiser: SGD options.
        batch_size: Retain rows a batch.
        forget_batch_size: Forget rows a batch.
        game_fraction: Share of the validation rows that rewinding may read; the rest, V_tune, is never read (S16).
        split_seed: Seed of that cut.
        augment: Changes training inputs, `augment(inputs, generator)`.
        callbacks: Called after every step.
    """

    epochs: float = 3.0
    rounds: int = 3
    max_rounds: int = 2
    retain_share: float = 0.99
    distillation: float = 0.001
    temperature: float = 4.0
    rewind: bool = False
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=5e-4))
    batch_size: int = 256
    forget_batch_size: int = 512
    game_fraction: float = 0.5
    split_seed: int = 0
    augment: Augment | None = None
    callbacks: tuple[Callback, ...] = ()
    name: str = "scrub"

    def __post_init__(self) -> None:
        if not self.temperature > 0.0:
            raise DataError(f"temperature must be > 0, got {self.temperature}; 4 is usual")
        if min(self.retain_share, self.distillation) < 0.0:
            raise DataError(f"retain_share and distillation must be >= 0, got {self.retain_share}, {self.distillation}")

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A copy of `model` that disagrees with it on the forget rows.

        Raises:
            DataError: Unusable model or splits; for rewinding, no validation row of any forget class.
            SolveError: Training diverged.
        """
        return _Scrubbing(self, Run(self, model, splits, seed)).train()


class _Scrubbing:
    def __init__(self, method: Scrub, run: Run) -> None:
        self._method, self._run = method, run
        self._teacher = deepcopy(run.model).eval().requires_grad_(False)
        self._retain = run.stream("retain", run.rows("retain"))
        self._forget = run.stream("forget", run.rows("forget"), method.forget_batch_size)
        size = self._forget.batch_size
        batches = max(1, self._forget.batches_per_pass)
        self._rounds = Rounds(run, method.rounds, batches, cost(size) + cost(size, backward=False), method.max_rounds)
        self._kept: list[tuple[float, dict[str, Tensor]]] = []
        self._round = 1
        if method.rewind:
            game = run.splits.split_validation(method.split_seed, method.game_fraction)[0]
            self._validation = _of_classes(game, run.rows("forget").labels())
            run.meter.add(method.rounds * len(run.rows("forget")) + len(self._validation), backward=False)
            run.at_end(self._rewind)

    def train(self) -> Result:
        return self._run.train(self._step)

    def _step(self) -> Values:
        forgets = self._rounds.forgets()
        if self._rounds.current > self._round:
            self._round = self._rounds.current
            self._keep()
        return self._run.update(self._climb if forgets else self._descend)

    def _climb(self) -> Values:
        divergence, labels, student = self._divergence(self._forget)
        (-divergence).backward()
        return {"forget_loss": functional.cross_entropy(student, labels).detach(), "divergence": divergence.detach()}

    def _descend(self) -> Values:
        divergence, labels, student = self._divergence(self._retain)
        loss = functional.cross_entropy(student, labels)
        (self._method.retain_share * loss + self._method.distillation * divergence).backward()
        return {"retain_loss": loss.detach()}

    def _divergence(self, stream: BatchStream) -> tuple[Tensor, Tensor, Tensor]:
        """KL(teacher‖student)·T² of the next batch, its labels and the student's logits."""
        inputs, labels = self._run.draw(stream)
        self._run.meter.add(len(labels))
        self._run.meter.add(len(labels), backward=False)
        with torch.no_grad():
            teacher = class_logits(self._teacher(inputs), len(labels))
        student = class_logits(self._run.model(inputs), len(labels))
        return softened_divergence(teacher, student, self._method.temperature), labels, student

    def _keep(self) -> None:
        if self._method.rewind:
            state = {name: value.detach().clone() for name, value in self._run.model.state_dict().items()}
            self._kept.append((_error(self._run.model, self._run.rows("forget")), state))

    def _rewind(self) -> None:
        self._keep()
        target = _error(self._run.model, self._validation)
        _, state = min(self._kept, key=lambda kept: abs(kept[0] - target))
        self._run.model.load_state_dict(state)


def softened_divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL(softmax(t/T)‖softmax(s/T))·T², summed over classes, mean over rows; of logits (n, C).

    >>> logits = torch.tensor([[0.0, 2.0]])
    >>> float(softened_divergence(logits, logits, 4.0))
    0.0
    """
    log_p, log_q = (functional.log_softmax(z / temperature, 1) for z in (teacher, student))
    return functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def _error(model: nn.Module, rows: Rows) -> float:
    """Share of wrong answers, in eval mode. Waits for the device."""
    logits, labels = predict(model, rows, batch_size=1000)
    return float((logits.argmax(1) != labels).double().mean())


def _of_classes(rows: Rows, labels: Tensor) -> Rows:
    """The rows whose label is among `labels`."""
    chosen = torch.isin(rows.labels(), labels).nonzero().flatten()
    if len(chosen) == 0:
        raise DataError("rewinding needs validation rows of the forget rows' classes, there is none; add some")
    return rows.take(chosen.cpu())
