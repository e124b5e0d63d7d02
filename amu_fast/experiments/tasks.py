"""What the units of an experiment share: data, sizes, network and training; and the three tasks of this package."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from amu_fast.experiments.datasets import Draw, Population, draw, load
from amu_fast.experiments.models import SmallCnn
from amu_fast.unlearn.methods import Retrain
from amu_fast.unlearn.optimise import Sgd


@dataclass(frozen=True)
class Task:
    """What all units of an experiment share.

    Attributes:
        data: Name of the data set.
        train: Training rows of the original, forget rows included.
        forget: Rows to be forgotten, at random.
        validation: Rows for the game and for selection, half each.
        test: Rows for the final figures.
        noise: Share of labels, in all parts, that are another class at random.
        epochs: Passes of every training.
        batch_size: Rows a batch.
        optimiser: Of every training.
        unlearn_batch: Retain rows a batch of every unlearning method.
        references: Models of the calibrated attack.
        width: Channels of the network.
        hidden: Units of its hidden layer.
    """

    data: str = "fashion-mnist"
    train: int = 12_000
    forget: int = 500
    validation: int = 2_000
    test: int = 5_000
    noise: float = 0.0
    epochs: float = 20.0
    batch_size: int = 128
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=0.1, weight_decay=5e-4, warmup=0.1))
    unlearn_batch: int = 64
    references: int = 2
    width: int = 16
    hidden: int = 128

    def population(self, data_dir: str | Path | None = None) -> Population:
        """The rows, label noise applied."""
        return load(self.data, data_dir).with_noise(self.noise)

    def draw(self, population: Population, seed: int) -> Draw:
        """Row numbers of the four parts of one unit."""
        return draw(
            len(population),
            seed,
            train=self.train,
            forget=self.forget,
            validation=self.validation,
            test=self.test,
        )

    def training(self) -> Retrain:
        """The training of every model from scratch."""
        return Retrain(epochs=self.epochs, batch_size=self.batch_size, optimiser=self.optimiser)

    def network(self, population: Population) -> nn.Module:
        """A fresh network; trainings re-initialise it under their own seed."""
        channels, side = population.inputs.shape[1], population.inputs.shape[-1]
        return SmallCnn(side, population.classes, self.width, self.hidden, channels=channels)


TABLE_TASK = Task()
QUICK_TASK = Task(train=8_000, epochs=15.0)
DEMO_TASK = Task(
    data="mnist-5k",
    train=2_500,
    validation=800,
    test=1_700,
    noise=0.05,
    batch_size=64,
    optimiser=Sgd(lr=0.05, weight_decay=5e-4, warmup=0.1),
    unlearn_batch=32,
)
