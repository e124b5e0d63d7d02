"""Relearn time: a model that only hides the forget rows learns them again sooner than one that never saw them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from amu_fast.audit.predict import logits_of, predict
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.rows import Rows
    from amu_fast.splits import Splits


@dataclass(frozen=True)
class RelearnResult:
    """How long it took.

    Attributes:
        name: the measure's name, with data, lr and batch size, for figures of other settings differ.
        epochs: first epoch with loss <= threshold, 0 if it starts there; None: not within the cap.
        losses: mean loss on the forget rows before training and after each epoch.
        threshold: (1 + margin) times the original's loss on the forget rows.
        in_game: always False.
    """

    name: str
    epochs: int | None
    losses: tuple[float, ...]
    threshold: float
    in_game: bool = False


@dataclass(frozen=True)
class RelearnTime:
    """First epoch m with L(m, forget) <= 1.05 L(original, forget) when training on the forget rows again.

    Losses are taken in eval mode, training is plain SGD in train mode on a copy. Compare with retrain's: an absolute
    number of epochs says nothing.

    Attributes:
        original_loss: mean loss of the original model on the forget rows; `mean_loss(original, splits)` gives it.
        lr: learning rate.
        batch_size: rows a step.
        momentum: of SGD.
        margin: share by which the original's loss may be missed.
        cap: epochs after which to give up.
        with_retain: train on retain and forget rows together, as in the original's training; else on forget rows only.
        seed: of the order of the rows.
        in_game: always False.
        name: name in tables.

    Source: Golatkar et al. 2020 (arXiv 1911.04933); Tarun et al. 2021 (arXiv 2111.08947).
    """

    original_loss: float
    lr: float = 0.01
    batch_size: int = 128
    momentum: float = 0.9
    margin: float = 0.05
    cap: int = 30
    with_retain: bool = False
    seed: int = 0
    in_game: bool = False
    name: str = "relearn time"

    def __post_init__(self) -> None:
        if not self.original_loss >= 0:
            raise DataError(f"original_loss must be >= 0, got {self.original_loss}")
        if not self.lr > 0 or self.batch_size < 1 or self.cap < 1 or not self.margin >= 0:
            raise DataError(
                f"lr must be > 0, batch_size and cap >= 1 and margin >= 0, got {self.lr}, {self.batch_size}, "
                f"{self.cap} and {self.margin}"
            )

    def run(self, target: nn.Module, splits: Splits) -> RelearnResult:
        """Train a copy of the model on its splits; the model itself is left unchanged."""
        model = deepcopy(target)
        parts = [splits.rows(name) for name in (("retain", "forget") if self.with_retain else ("forget",))]
        threshold = (1.0 + self.margin) * self.original_loss
        losses = [mean_loss(model, splits)]
        optimiser = torch.optim.SGD(model.parameters(), lr=self.lr, momentum=self.momentum)
        rng = torch.Generator().manual_seed(self.seed)
        while losses[-1] > threshold and len(losses) <= self.cap:
            self._epoch(model, parts, optimiser, rng)
            losses.append(mean_loss(model, splits))
        found = len(losses) - 1 if losses[-1] <= threshold else None
        data = "retain and forget" if self.with_retain else "forget"
        name = f"{self.name} ({data} rows, lr {self.lr:g}, batch {self.batch_size})"
        return RelearnResult(name, found, tuple(losses), threshold)

    def _epoch(self, model: nn.Module, parts: list[Rows], optimiser: Any, rng: torch.Generator) -> None:
        model.train()
        sizes = [len(part) for part in parts]
        for batch in torch.randperm(sum(sizes), generator=rng).split(self.batch_size):
            chosen = (batch[batch < sizes[0]], batch[batch >= sizes[0]] - sizes[0])
            pairs = [part.fetch(index) for part, index in zip(parts, chosen, strict=False) if len(index)]
            device = next(model.parameters()).device
            inputs, labels = (torch.cat(side).to(device) for side in zip(*pairs, strict=True))
            optimiser.zero_grad()
            functional.cross_entropy(logits_of(model(inputs)), labels).backward()
            optimiser.step()


def mean_loss(model: nn.Module, splits: Splits) -> float:
    """Mean cross-entropy on the forget rows, in eval mode; waits for the device."""
    logits, labels = predict(model, splits.rows("forget"))
    return float(functional.cross_entropy(logits.double(), labels))
