"""The models that most scenarios need: the original, retraining, references that saw nothing, all trained alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from amu_fast.audit.attacks import CalibratedLoss, SplitOutputs
from amu_fast.audit.intervals import Interval
from amu_fast.experiments.dangers.poisoned import missing_rows
from amu_fast.experiments.datasets import Draw
from amu_fast.experiments.population import Population
from amu_fast.experiments.tasks import Task
from amu_fast.protocols import Attack
from amu_fast.rows import Rows
from amu_fast.splits import Splits
from amu_fast.unlearn.streams import generator

_SEEDS_PER_UNIT = 1000


def half_a_class(parts: Draw, labels: Tensor) -> Draw:
    """The same training rows, of which half of the most frequent class are to be forgotten and all others stay."""
    train = torch.tensor([*parts.retain, *parts.forget])
    common = labels[train] == labels[train].bincount().argmax()
    rows = train[common]
    forget = rows[: len(rows) // 2].tolist()
    retain = [*train[~common].tolist(), *rows[len(rows) // 2 :].tolist()]
    return replace(parts, retain=tuple(retain), forget=tuple(forget))


@dataclass(frozen=True, eq=False)
class Cast:
    """Trained models of one unit.

    Attributes:
        task: Data, sizes, network and training.
        splits: Rows.
        outsiders: Rows in none of the parts: on them the references were trained.
        original: Trained on retain and forget rows.
        retrain: Trained on retain rows.
        floor: The same with another seed: the negative control of every comparison with retrain (S11).
        references: Trained on outsiders, as many as the task says; they saw no row of any part.
    """

    task: Task
    splits: Splits
    outsiders: Rows
    original: nn.Module
    retrain: nn.Module
    floor: nn.Module
    references: tuple[nn.Module, ...]

    @staticmethod
    def of(task: Task, population: Population, seed: int = 0, parts: Draw | None = None) -> Cast:
        """Draw the rows and train 3 + k models.

        Args:
            task: Its parts must leave rows of the population over; at most as many outsiders as training rows are used.
            population: Its rows.
            seed: Of the draw and, with the model's number, of each training.
            parts: Row numbers; None: drawn at random as the task says.
        """
        parts = task.draw(population, seed) if parts is None else parts
        data = (population.inputs, population.labels)
        drawn = torch.tensor([*parts.retain, *parts.forget, *parts.validation, *parts.test])
        left = torch.ones(len(population), dtype=torch.bool)
        left[drawn] = False
        outside = left.nonzero().flatten()
        outside = outside[torch.randperm(len(outside), generator=generator(seed, "outsiders"))][: task.train]
        network, training = task.network(population), task.training()

        def trained(rows: Tensor | tuple[int, ...], number: int) -> nn.Module:
            """On these rows; the other parts are there to be legal, retraining never reads them."""
            legal = Splits.from_indices(data, retain=rows, forget=parts.validation, validation=parts.test)
            return training.unlearn(network, legal, seed=seed * _SEEDS_PER_UNIT + number).model.eval()

        original = trained(parts.retain + parts.forget, 0)
        retrain, floor = (trained(parts.retain, number) for number in (1, 2))
        references = tuple(trained(outside, 3 + k) for k in range(task.references))
        outsiders = Rows.of(data, "outsiders").take(outside)
        return Cast(task, parts.splits(population), outsiders, original, retrain, floor, references)

    @property
    def attack(self) -> CalibratedLoss:
        """The calibrated loss: a fixed direction, so differences to retrain have a meaning (S12)."""
        return CalibratedLoss(self.references)

    def obeying(self, request: tuple[Tensor, Tensor]) -> Splits:
        """Splits of a request: its rows to be forgotten, and all training rows that it does not name to be kept."""
        trained = self.training_rows()
        kept = torch.tensor(missing_rows(trained, request))
        return replace(self.splits, retain=(trained[0][kept], trained[1][kept]), forget=request)

    def training_rows(self) -> tuple[Tensor, Tensor]:
        """What the original was trained on: retain rows, then forget rows."""
        parts = [self.splits.rows(part) for part in ("retain", "forget")]
        inputs, labels = zip(*(rows.fetch(torch.arange(len(rows))) for rows in parts), strict=True)
        return torch.cat(inputs), torch.cat(labels)


def gap_to_reference(
    attack: Attack, unlearned: nn.Module, reference: nn.Module, splits: Splits, level: float
) -> tuple[Interval, tuple[float, float]]:
    """AUC of an attack on `unlearned` minus that on `reference`, forget against test rows (S6), and both AUCs."""
    first, second = (attack.run(SplitOutputs.of(m, splits), splits) for m in (unlearned, reference))
    return first.difference_to(second, level=level), (first.auc.value, second.auc.value)
