"""Real data, small: scikit-learn's digits with a fifth of the labels wrong, and a network with batch-norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from amu_fast.audit.predict import predict
from amu_fast.splits import Splits

PARTS = {"retain": range(300), "forget": range(300, 400), "validation": range(400, 700), "test": range(700, 1000)}


def noisy_digits() -> tuple[Tensor, Tensor]:
    """Inputs (1797, 1, 8, 8) in [0, 1] and labels, in a fixed random order."""
    from sklearn.datasets import load_digits

    data = load_digits()
    rng = torch.Generator().manual_seed(0)
    order = torch.randperm(len(data.target), generator=rng)
    labels = torch.tensor(data.target)[order]
    wrong = torch.rand(len(labels), generator=rng) < 0.2
    labels = torch.where(wrong, torch.randint(0, 10, labels.shape, generator=rng), labels)
    return torch.tensor(data.images, dtype=torch.float32)[order].unsqueeze(1) / 16, labels


def network(dropout: float = 0.0) -> nn.Module:
    """Two convolutions with batch-norm and a linear layer, always the same weights."""
    with torch.random.fork_rng(devices=[]):
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


def loss_on(model: nn.Module, splits: Splits, part: str) -> float:
    """Mean cross-entropy in eval mode."""
    logits, labels = predict(model, splits.rows(part))
    return float(functional.cross_entropy(logits, labels))


def weights(model: nn.Module) -> Tensor:
    """All parameters in one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradients(model: nn.Module) -> Tensor:
    """All gradients in one vector; 0 where there is none."""
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )
