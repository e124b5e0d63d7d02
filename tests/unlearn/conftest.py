"""Real data, small: scikit-learn's digits, a fifth of the labels wrong, and a network with batch-norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from amu_fast.splits import Splits
from amu_fast.unlearn.methods import Retrain
from amu_fast.unlearn.optimise import Sgd

PARTS = {"retain": range(300), "forget": range(300, 400), "validation": range(400, 700), "test": range(700, 1000)}


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    rng = torch.Generator().manual_seed(0)
    order = torch.randperm(len(data.target), generator=rng)
    labels = torch.tensor(data.target)[order]
    wrong = torch.rand(len(labels), generator=rng) < 0.2
    labels = torch.where(wrong, torch.randint(0, 10, labels.shape, generator=rng), labels)
    return torch.tensor(data.images, dtype=torch.float32)[order].unsqueeze(1) / 16, labels


@pytest.fixture(scope="session")
def splits(digits: tuple[Tensor, Tensor]) -> Splits:
    return Splits.from_indices(digits, **PARTS)


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(256, 10),
    )


@pytest.fixture(scope="session")
def trained(digits: tuple[Tensor, Tensor]) -> nn.Module:
    """A network that memorised the retain and forget rows."""
    everything = Splits.from_indices(digits, retain=range(400), forget=[400], validation=range(401, 404))
    recipe = Retrain(epochs=40, batch_size=40, optimiser=Sgd(lr=0.05, weight_decay=0.0))
    return recipe.unlearn(network(), everything).model.eval()
