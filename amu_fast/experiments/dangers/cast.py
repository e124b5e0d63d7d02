"""The models that most scenarios need: the original, retraining, references that saw nothing, all trained alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from amu_fast.audit.attacks import CalibratedLoss, SplitOutputs
from amu_fast.audit.intervals import Interval
from amu_fast.experiments.datasets import Population
from amu_fast.experiments.tasks import Task
from amu_fast.protocols import Attack
from amu_fast.rows import Rows
from amu_fast.splits import Splits
from amu_fast.unlearn.streams import generator

_SEEDS_PER_UNIT = 1000


@dataclass(frozen=True, eq=False)
class Cast:
    """Trained models of one unit.

    Attributes:
        task: Data, sizes, network and training.
        splits: Rows.
        outsiders: Rows in none of the parts: on them the references were trained.
        original: Trained on retain and forget rows.
        retrain: Trained on retain rows.
        references: Trained on outsiders, as many as the task says; they saw no row of any part.
    """

    task: Task
    splits: Splits
    outsiders: Rows
    original: nn.Module
    retrain: nn.Module
    references: tuple[nn.Module, ...]

    @staticmethod
    def of(task: Task, population: Population, seed: int = 0) -> Cast:
        """Draw the rows and train 2 + k models.

        Args:
            task: Its parts must leave rows of the population over; at most as many outsiders as training rows are used.
            population: Its rows.
            seed: Of the draw and, with the model's number, of each training.
        """
        parts = task.draw(population, seed)
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
        references = tuple(trained(outside, 2 + k) for k in range(task.references))
        outsiders = Rows.of(data, "outsiders").take(outside)
        return Cast(task, parts.splits(population), outsiders, original, trained(parts.retain, 1), references)

    @property
    def attack(self) -> CalibratedLoss:
        """The calibrated loss: a fixed direction, so differences to retrain have a meaning (S12)."""
        return CalibratedLoss(self.references)

    def with_forget(self, inputs: Tensor, labels: Tensor) -> Splits:
        """The same splits with other forget rows, such as those of a request that names what was never trained on."""
        return replace(self.splits, forget=(inputs, labels))


def gap_to_reference(
    attack: Attack, unlearned: nn.Module, reference: nn.Module, splits: Splits, level: float
) -> tuple[Interval, tuple[float, float]]:
    """AUC of an attack on `unlearned` minus that on `reference`, forget against test rows (S6), and both AUCs."""
    first, second = (attack.run(SplitOutputs.of(m, splits), splits) for m in (unlearned, reference))
    return first.difference_to(second, level=level), (first.auc.value, second.auc.value)
