"""Batch-norm statistics of a trainer's model when its steps are over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from amu_fast.unlearn.batch_norm import refresh_statistics, tracking_layers
from amu_fast.unlearn.meter import cost
from amu_fast.unlearn.objectives import AUXILIARY

if TYPE_CHECKING:
    from amu_fast.integrations.trainer import UnlearnTrainer

MAX_BATCHES = 20


class _ByKeyword(nn.Module):
    """Takes a part as its one argument."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, part: Any) -> Any:
        """The model's output on the part's inputs."""
        return self.model(**{key: value for key, value in part.items() if key != "labels" and key not in AUXILIARY})


def refresh_at_end(trainer: UnlearnTrainer) -> None:
    """Replace moving averages by the mean statistics of retain batches, up to 20 of them or one pass.

    A game moves weights faster than moving averages follow. Every rank sees the same rows. Without batch-norm, or with
    an objective that scores no validation rows, nothing is done.
    """
    model = trainer.network
    if not tracking_layers(model) or not any("validation" in trainer.objective.needs(step) for step in range(100)):
        return
    order, rows = trainer.order(), trainer.splits.retain
    number = iter(range(trainer.state.global_step * order.accumulation, 1 << 62))

    def draw() -> Tensor:
        chosen = [rows[row] for row in order.retain(next(number)).tolist()]
        part: Any = trainer.move(trainer.part_collator.part(chosen))
        return part

    batches = min(MAX_BATCHES, order.epoch_length)
    model.train()
    refresh_statistics(_ByKeyword(model), draw, batches)
    trainer.recorder.charge(cost(batches * order.retain_batch, backward=False))
