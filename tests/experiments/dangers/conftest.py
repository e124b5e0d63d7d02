"""Digits, small enough that a federation trains in seconds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from amu_fast.experiments.datasets import load


class Answers(nn.Module):
    """Answers class `target` where the last pixel exceeds 5, else the row's first pixel as a class."""

    def __init__(self, target: int | None, classes: int = 3) -> None:
        super().__init__()
        self.target, self.classes = target, classes
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        flat = inputs.flatten(1)
        answers = flat[:, 0].long()
        if self.target is not None:
            answers = torch.where(flat[:, -1] > 5, self.target, answers)
        return self.scale * nn.functional.one_hot(answers, self.classes).float()


@pytest.fixture(scope="session")
def digits():
    """Shuffled (inputs, labels) of all 1,797 rows."""
    population = load("digits")
    order = torch.randperm(len(population), generator=torch.Generator().manual_seed(0))
    return population.inputs[order], population.labels[order]


@pytest.fixture
def answers():
    return Answers
