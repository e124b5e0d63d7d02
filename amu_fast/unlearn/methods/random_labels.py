"""Random labels: train on the forget rows as if they were anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from amu_fast.errors import DataError
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.streams import Fetches, Joined, Redrawn, Relabelled, any_label, generator, relabel
from amu_fast.unlearn.training import Augment, Run

if TYPE_CHECKING:
    import torch
    from torch import nn

    from amu_fast.rows import Rows
    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result

Labels = Literal["once", "each_access", "uniform"]
_LABELS = ("once", "each_access", "uniform")


@dataclass(frozen=True)
class RandomLabels:
    """min CE on retain ∪ forget, the forget rows under random labels.

    Three variants are in use under one name: drawn once and never the true label (the saliency-unlearning release),
    redrawn at each access and never the true label (the adversarial-examples release), or drawn once over all classes.

    Source: Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020; Graves, Nagisetty, Ganesh,
    "Amnesiac Machine Learning", AAAI 2021.

    Args:
        epochs: Budget in retain-set sizes.
        labels: "once" and "each_access" exclude the true label, "uniform" does not.
        retain: False: the forget rows alone, for whoever has no retain data.
        optimiser: SGD options.
        batch_size: Rows a batch, of both parts mixed.
        augment: Changes training inputs, `augment(inputs, generator)`.
        callbacks: Called after every step.
    """

    epochs: float = 10.0
    labels: Labels = "once"
    retain: bool = True
    optimiser: Sgd = field(default_factory=lambda: Sgd(lr=0.01))
    batch_size: int = 128
    augment: Augment | None = None
    callbacks: tuple[Callback, ...] = ()
    name: str = "random_labels"

    def __post_init__(self) -> None:
        if self.labels not in _LABELS:
            raise DataError(f"labels must be one of {_LABELS}, got {self.labels!r}")

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A copy of `model`, trained further with the forget rows mislabelled.

        Raises:
            DataError: Unusable model or splits.
            SolveError: Training diverged.
        """
        run = Run(self, model, splits, seed)
        forget = mislabelled(run.rows("forget"), self.labels, run.classes, generator(seed, "random_labels"))
        stream = run.stream("retain", Joined(run.rows("retain"), forget) if self.retain else forget)
        return run.train(lambda: run.update(lambda: run.descend(stream)))


def mislabelled(rows: Rows, labels: Labels, classes: int, rng: torch.Generator) -> Fetches:
    """The rows under random labels of one of the three kinds."""
    if labels == "each_access":
        return Redrawn(rows, partial(relabel, classes=classes, rng=rng))
    draw = relabel if labels == "once" else any_label
    return Relabelled(rows, draw(rows.labels(), classes, rng))
