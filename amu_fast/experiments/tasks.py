"""What the units of an experiment share: data, sizes, network and training; and the three tasks of this package."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from amu_fast.errors import DataError
from amu_fast.experiments.datasets import Draw, draw, load
from amu_fast.experiments.forget_sets import ForgetSet, Memorisation, RandomRows
from amu_fast.experiments.models import SmallCnn
from amu_fast.experiments.population import Population
from amu_fast.unlearn.methods import Retrain
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.streams import generator


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

    def draw(self, population: Population, seed: int, memorisation: Memorisation | None = None) -> Draw:
        """Row numbers of the four parts of one unit; rows at random need no `memorisation`."""
        return draw(
            len(population),
            seed,
            train=self.train,
            forget=self.forget,
            validation=self.validation,
            test=self.test,
        )

    def training_rows(self, population: Population, seed: int) -> tuple[Tensor, Tensor]:
        """Row numbers of the training rows of one unit and of the others, both in random order."""
        order = torch.randperm(len(population), generator=generator(seed, "draw"))
        return order[: self.train], order[self.train :]

    def alike(self, population: Population, rows: Tensor) -> Tensor:
        """(n,) bool: which of these rows are like the forget rows; at random, all."""
        return torch.ones(len(rows), dtype=torch.bool)

    def training(self) -> Retrain:
        """The training of every model from scratch."""
        return Retrain(epochs=self.epochs, batch_size=self.batch_size, optimiser=self.optimiser)

    def network(self, population: Population) -> nn.Module:
        """A fresh network; trainings re-initialise it under their own seed."""
        channels, side = population.inputs.shape[1], population.inputs.shape[-1]
        return SmallCnn(side, population.classes, self.width, self.hidden, channels=channels)

    def with_forget_set(self, forget_set: ForgetSet, classes: int = 10) -> ForgetTask:
        """The same task with these forget rows."""
        return ForgetTask.of(self, forget_set, classes)


@dataclass(frozen=True)
class ForgetTask(Task):
    """A task whose forget rows are of any kind; `forget` follows from the kind.

    Validation rows are like the forget rows, as the non-members of a game have to be; test rows are drawn from
    everything, and attacks look at those of them that are alike.

    Attributes:
        forget_set: Kind of the forget rows.
    """

    forget_set: ForgetSet = field(default_factory=RandomRows)

    @classmethod
    def of(cls, task: Task, forget_set: ForgetSet, classes: int = 10) -> ForgetTask:
        """The same task with another kind of forget rows."""
        shared = {f.name: getattr(task, f.name) for f in fields(task) if f.name != "forget_set"}
        return cls(**{**shared, "forget": forget_set.rows(task.train, classes)}, forget_set=forget_set)

    def draw(self, population: Population, seed: int, memorisation: Memorisation | None = None) -> Draw:
        """Row numbers of the four parts of one unit.

        Raises:
            DataError: Fewer rows than asked for, or forget rows by memorisation without it.
        """
        train, rest = self.training_rows(population, seed)
        forget = self.forget_set.choose(
            population, train, generator(seed, "forget"), memorisation or _without_memorisation
        )
        test, pool = rest[: self.test], rest[self.test :]
        validation = pool[self.alike(population, pool)][: self.validation]
        if len(test) < self.test or len(validation) < self.validation:
            raise DataError(
                f"{len(population)} rows leave {len(test)} for testing and {len(validation)} that are like the forget "
                f"rows for validation after {self.train} for training; {self.test} and {self.validation} are asked for"
            )
        retain = train[~torch.isin(train, forget)]
        return Draw(*(tuple(part.tolist()) for part in (retain, forget, validation, test)))

    def alike(self, population: Population, rows: Tensor) -> Tensor:
        """(n,) bool: which of these rows are like the forget rows."""
        return self.forget_set.alike(population, rows)


def _without_memorisation() -> Tensor:
    raise DataError("this forget set needs the rows' memorisation; draw it through prepare_unit")


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
