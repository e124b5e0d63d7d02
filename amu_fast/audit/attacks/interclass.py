"""Interclass confusion: labels of two classes are swapped before training; what stays confused was not forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from amu_fast.audit.predict import predict
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.rows import Rows
    from amu_fast.splits import Splits


@dataclass(frozen=True)
class ConfusionResult:
    """Rows of one class that the model takes for the other, C[A, B] + C[B, A], in counts.

    Attributes:
        name: the test's name.
        test: on clean test rows, of which `test_rows` belong to A or B; compare with retrain's.
        test_rows: their number.
        forget: on the swapped rows against their true labels.
        forget_rows: their number.
        in_game: always False.
    """

    name: str
    test: int
    test_rows: int
    forget: int
    forget_rows: int
    in_game: bool = False


@dataclass(frozen=True)
class InterclassConfusion:
    """Swap the labels of n rows of class A with those of n rows of class B, train, forget these 2n rows, and count.

    Attributes:
        first: class A.
        second: class B.
        in_game: always False.
        name: name in tables.

    Source: Goel et al. 2022 (arXiv 2201.06640).
    """

    first: int
    second: int
    in_game: bool = False
    name: str = "interclass confusion"

    def __post_init__(self) -> None:
        if self.first == self.second or min(self.first, self.second) < 0:
            raise DataError(f"two different classes >= 0 are needed, got {self.first} and {self.second}")

    def plant(self, labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Labels to train with, and which rows to ask to be forgotten.

        Args:
            labels: (N,) true class labels of the training rows; not changed.
            count: rows swapped per class, n.
            seed: which rows.

        Returns:
            swapped labels (N,), and the 2n row numbers, ascending.
        """
        rng, chosen = torch.Generator().manual_seed(seed), []
        for which in (self.first, self.second):
            rows = (labels.cpu() == which).nonzero().flatten()
            if not 1 <= count <= len(rows):
                raise DataError(f"class {which} has {len(rows)} rows, and {count} are to be swapped; at least 1")
            chosen.append(rows[torch.randperm(len(rows), generator=rng)[:count]])
        swapped = labels.clone()
        swapped[chosen[0].to(labels.device)] = self.second
        swapped[chosen[1].to(labels.device)] = self.first
        return swapped, torch.cat(chosen).sort().values

    def run(self, target: nn.Module, splits: Splits) -> ConfusionResult:
        """Count on the clean test rows, and on the forget rows, whose labels are the swapped ones.

        Raises:
            DataError: forget rows of other classes.
        """
        taken, given = _classes(target, splits.rows("forget"))
        strange = given[(given != self.first) & (given != self.second)]
        if len(strange):
            raise DataError(
                f"the forget rows must be the swapped ones, of classes {self.first} and {self.second}, got {strange[0]}"
            )
        test, truth = _classes(target, splits.rows("test"))
        rows = (truth == self.first) | (truth == self.second)
        # a swapped row is confused if the model still gives it the label it was trained with
        return ConfusionResult(
            self.name,
            int((test[rows] == self._other(truth[rows])).sum()),
            int(rows.sum()),
            int((taken == given).sum()),
            len(given),
        )

    def _other(self, labels: Tensor) -> Tensor:
        return self.first + self.second - labels


def _classes(model: nn.Module, rows: Rows) -> tuple[Tensor, Tensor]:
    logits, labels = predict(model, rows)
    return logits.argmax(1), labels
