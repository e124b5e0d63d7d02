"""Tasks with a ResNet-18, and on a GPU: what the tables of the literature are made on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from amu_fast.experiments.datasets import Draw
from amu_fast.experiments.forget_sets import ForgetSet, Memorisation
from amu_fast.experiments.models import resnet18
from amu_fast.experiments.population import Population
from amu_fast.experiments.tasks import ForgetTask, Task
from amu_fast.unlearn.optimise import Sgd


@dataclass(frozen=True)
class DeepTask(Task):
    """CIFAR-10 with a ResNet-18, whose weights and rows lie on one device.

    Attributes:
        device: Of models and rows, such as "cuda".
    """

    data: str = "cifar-10"
    train: int = 45_000
    forget: int = 4_500
    validation: int = 5_000
    test: int = 10_000
    epochs: float = 30.0
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=0.1, weight_decay=5e-4, warmup=0.1))
    unlearn_batch: int = 128
    references: int = 4
    device: str = "cuda"

    def network(self, population: Population) -> nn.Module:
        """A fresh ResNet-18 on the device."""
        return resnet18(population.classes, population.inputs.shape[1]).to(self.device)

    def population(self, data_dir: str | Path | None = None) -> Population:
        """The rows on the device; their numbers stay on the CPU."""
        rows = super().population(data_dir)
        inputs, labels, clean = (tensor.to(self.device) for tensor in (rows.inputs, rows.labels, rows.clean_labels))
        return replace(rows, inputs=inputs, labels=labels, clean_labels=clean)

    def with_forget_set(self, forget_set: ForgetSet, classes: int = 10) -> ForgetTask:
        """The same task with these forget rows."""
        return DeepForgetTask.of(self, forget_set, classes)


@dataclass(frozen=True)
class DeepForgetTask(DeepTask, ForgetTask):
    """A `DeepTask` whose forget rows are of any kind."""

    def draw(self, population: Population, seed: int, memorisation: Memorisation | None = None) -> Draw:
        """As `ForgetTask`, from labels on the CPU."""
        return super().draw(_near(population), seed, memorisation)

    def alike(self, population: Population, rows: Tensor) -> Tensor:
        """(n,) bool on the CPU: which of these rows are like the forget rows."""
        return super().alike(_near(population), rows)


def _near(population: Population) -> Population:
    """With its labels on the CPU, where row numbers are."""
    return replace(population, labels=population.labels.cpu(), clean_labels=population.clean_labels.cpu())
