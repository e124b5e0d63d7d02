"""The terms of one micro-batch's loss, scaled so that the micro-batches of all ranks add up to one optimiser step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from amu_fast.errors import DataError
from amu_fast.unlearn.batch_norm import latest_statistics, tracking_layers
from amu_fast.unlearn.objectives import AuditScores, Cotangent, Objective, Terms, UnlearningBatch
from amu_fast.unlearn.objectives.base import RetainLoss, retain_term

Parts = Mapping[str, Mapping[str, Tensor]]


class ExactObjective(Objective, Protocol):
    """An objective whose game can be played on the micro-batches of a step together, as `GameObjective` can."""

    def audits(self, step: int) -> bool:
        """Whether this step has an auditing batch."""

    def score(self, model: nn.Module, batch: UnlearningBatch, *, gradient: bool) -> AuditScores:
        """Score this rank's auditing rows."""

    def solve(self, micro: Sequence[AuditScores]) -> tuple[Terms, list[Cotangent]]:
        """One game on all scores."""

    def replay(self, model: nn.Module, batch: UnlearningBatch, cotangent: Cotangent) -> Terms:
        """Pull a cotangent back."""


@dataclass
class Window:
    """The micro-batches of one optimiser step.

    Args:
        batches: This rank's.
        items: Counted retain labels of each.
        total: The same of all micro-batches and ranks, a scalar on the device.
        step: Number of the optimiser step, from 0.
        ranks: Processes.
    """

    batches: Sequence[Parts]
    items: Sequence[int]
    total: Tensor
    step: int
    ranks: int = 1
    at: int = 0
    cotangents: list[Cotangent] = field(default_factory=list)
    game_on: bool = True

    @property
    def last(self) -> bool:
        """Whether the current micro-batch is the step's last one."""
        return self.at == len(self.batches) - 1

    @property
    def retain_scale(self) -> Tensor:
        """From the mean loss of the current micro-batch to `len(batches)` times its share of the step's.

        Ranks are averaged by whoever reduces gradients, hence their number.
        """
        return self.items[self.at] * len(self.batches) * self.ranks / self.total


@dataclass(frozen=True)
class Part:
    """One term to descend.

    Args:
        loss: Scalar, its gradient is the term's share of the step's.
        shown: What it adds to the loss that is logged.
        terms: What to record.
    """

    loss: Tensor
    shown: Tensor
    terms: Terms


def plain_terms(
    objective: Objective, model: nn.Module, window: Window, parts: Parts, retain: RetainLoss
) -> Iterator[Part]:
    """Each micro-batch is its own game; the step's payoff is their mean."""
    for terms in objective.terms(model, UnlearningBatch(**parts, step=window.step), retain):
        loss = terms.loss / len(window.batches)
        yield Part(loss, loss.detach(), terms)


def exact_terms(
    objective: ExactObjective,
    model: nn.Module,
    window: Window,
    parts: Parts,
    retain: RetainLoss,
    move: Callable[[Any], Any],
) -> Iterator[Part]:
    """One game on the auditing rows of all micro-batches: equals one big batch, for one forward more of its rows."""
    batch = UnlearningBatch(**parts, step=window.step)
    kept = retain_term(model, batch, retain)
    loss = kept.loss / len(window.batches)
    yield Part(loss, loss.detach(), kept)
    if not objective.audits(window.step):
        return
    shown = torch.zeros_like(loss.detach())
    if window.at == 0:
        sides = [{name: b[name] for name in ("forget", "validation")} for b in window.batches]
        batches = [UnlearningBatch(**move(side), step=window.step) for side in sides]
        played, window.cotangents = objective.solve([objective.score(model, b, gradient=False) for b in batches])
        # the same on every rank, unlike a cotangent that happens to be 0
        window.game_on = "game_on" not in played.values or bool(played.values["game_on"])
        yield Part(torch.zeros_like(shown), played.loss.detach(), played)
    if window.game_on:
        replayed = objective.replay(model, batch, window.cotangents[window.at])
        yield Part(replayed.loss, shown, replayed)


def frozen_statistics(model: nn.Module, parts: Parts) -> AbstractContextManager[None]:
    """Around the terms of a micro-batch whose auditing rows are scored in eval mode, for models with batch-norm."""
    return latest_statistics(model) if "validation" in parts and tracking_layers(model) else nullcontext()


def counted(labels: Tensor, *, shifted: bool) -> int:
    """Labels that count in the retain loss; DataError if none does."""
    chosen = labels[..., 1:] if shifted else labels
    count = int(chosen.ne(-100).sum())
    if count == 0:
        raise DataError("no label of a retain micro-batch counts, all are -100; leave out rows without counted labels")
    return count
