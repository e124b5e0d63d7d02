"""Which training rows are to be forgotten, and which held-out rows are like them (S6).

Each kind is one class: `choose` draws the forget rows of a unit from its training rows, `alike` tells which other rows
may stand for rows that were never trained on. Where nothing is alike (the most memorised rows), only retraining is a
fair comparison, and the class says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.experiments.population import Population

Memorisation = Callable[[], Tensor]
"""Gives the memorisation (n,) of the training rows, in their order; expensive, so only asked for when needed."""


class ForgetSet(Protocol):
    """A kind of forget set; a frozen dataclass, so that it is part of a task's configuration."""

    @property
    def kind(self) -> str:
        """Its name, which tells two kinds with the same fields apart in a configuration."""

    @property
    def title(self) -> str:
        """As it is printed, and the name of its folder."""

    @property
    def matched(self) -> bool:
        """Whether `alike` rows have the forget rows' own distribution."""

    def rows(self, train: int, classes: int) -> int:
        """About how many rows are forgotten of `train`."""

    def choose(self, population: Population, train: Tensor, rng: torch.Generator, memorisation: Memorisation) -> Tensor:
        """Row numbers of the population to forget, from those in `train` (n,)."""

    def alike(self, population: Population, rows: Tensor) -> Tensor:
        """(n,) bool: which of these rows are like the forget rows."""


@dataclass(frozen=True)
class RandomRows:
    """A share of the training rows, uniformly at random.

    Args:
        share: In (0, 1).
    """

    share: float = 0.02
    kind: str = "random"

    matched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_share(self.share)

    @property
    def title(self) -> str:
        """Such as "random-2pct"."""
        return f"random-{100 * self.share:g}pct"

    def rows(self, train: int, classes: int) -> int:
        """Share · n."""
        return round(self.share * train)

    def choose(self, population: Population, train: Tensor, rng: torch.Generator, memorisation: Memorisation) -> Tensor:
        """The first rows of the training rows, which are in random order already."""
        return train[: self.rows(len(train), population.classes)]

    def alike(self, population: Population, rows: Tensor) -> Tensor:
        """All."""
        return torch.ones(len(rows), dtype=torch.bool)


@dataclass(frozen=True)
class ClassRows:
    """A share of the training rows of one class: 1 forgets the class, .5 half of it.

    Args:
        share: In (0, 1].
        label: The class.
    """

    share: float = 0.5
    label: int = 0
    kind: str = "class"

    matched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.share != 1.0:
            _check_share(self.share)

    @property
    def title(self) -> str:
        """Such as "class-0-50pct"."""
        return f"class-{self.label}-{100 * self.share:g}pct"

    def rows(self, train: int, classes: int) -> int:
        """Share · n / C, for classes of equal size."""
        return round(self.share * train / classes)

    def choose(self, population: Population, train: Tensor, rng: torch.Generator, memorisation: Memorisation) -> Tensor:
        """Rows of the class, in the random order of the training rows."""
        if not 0 <= self.label < population.classes:
            raise DataError(f"label must lie in [0, {population.classes}), got {self.label}")
        mine = train[population.labels[train] == self.label]
        return mine[: max(1, round(self.share * len(mine)))]

    def alike(self, population: Population, rows: Tensor) -> Tensor:
        """Rows of the class."""
        return population.labels[rows] == self.label


@dataclass(frozen=True)
class MemorisedRows:
    """The training rows that the model knows by heart rather than by rule: least confident on average in training.

    Nothing held out is like them: their attacks mean something beside a retrained model only.

    Args:
        share: In (0, 1).

    Source: Zhao et al., "What makes unlearning hard and what to do about it", NeurIPS 2024 (arXiv 2406.01257), with
    Jiang et al. 2021 (arXiv 2002.03206) for the confidence averaged along training as a stand-in for memorisation.
    """

    share: float = 0.02
    kind: str = "memorised"

    matched: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_share(self.share)

    @property
    def title(self) -> str:
        """Such as "memorised-2pct"."""
        return f"memorised-{100 * self.share:g}pct"

    def rows(self, train: int, classes: int) -> int:
        """Share · n."""
        return round(self.share * train)

    def choose(self, population: Population, train: Tensor, rng: torch.Generator, memorisation: Memorisation) -> Tensor:
        """The rows of largest memorisation."""
        return train[memorisation().topk(self.rows(len(train), population.classes)).indices]

    def alike(self, population: Population, rows: Tensor) -> Tensor:
        """All, for want of better."""
        return torch.ones(len(rows), dtype=torch.bool)


@dataclass(frozen=True)
class MislabelledRows:
    """Training rows whose label is wrong, of a population with label noise; held-out rows with wrong labels are alike.

    Args:
        share: Of the training rows, at most; in (0, 1).
    """

    share: float = 0.02
    kind: str = "mislabelled"

    matched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_share(self.share)

    @property
    def title(self) -> str:
        """Such as "mislabelled-2pct"."""
        return f"mislabelled-{100 * self.share:g}pct"

    def rows(self, train: int, classes: int) -> int:
        """Share · n."""
        return round(self.share * train)

    def choose(self, population: Population, train: Tensor, rng: torch.Generator, memorisation: Memorisation) -> Tensor:
        """The first mislabelled rows of the training rows."""
        wrong = train[self.alike(population, train)]
        wanted = self.rows(len(train), population.classes)
        if len(wrong) < wanted:
            raise DataError(
                f"{len(wrong)} of {len(train)} training rows are mislabelled and {wanted} are to be forgotten; raise "
                f"the task's noise above {self.share}"
            )
        return wrong[:wanted]

    def alike(self, population: Population, rows: Tensor) -> Tensor:
        """Rows with a wrong label."""
        return population.labels[rows] != population.clean_labels[rows]


def _check_share(share: float) -> None:
    if not 0.0 < share < 1.0:
        raise DataError(f"the share of forgotten rows must lie in (0, 1), got {share}; .02 and .1 are usual")
