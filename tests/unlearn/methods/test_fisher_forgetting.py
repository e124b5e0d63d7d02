from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from digits import weights
from torch import nn
from torch.nn import functional

from amu_fast.errors import DataError
from amu_fast.rows import Rows
from amu_fast.unlearn.curvature import batch_fisher, fisher
from amu_fast.unlearn.methods import FisherForgetting


def test_the_diagonal_is_the_expected_square_over_the_models_own_labels(trained, splits):
    rows = splits.rows("retain").take(torch.arange(6))
    found = fisher(trained, rows, 4)
    model = deepcopy(trained).eval()
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    inputs, _ = rows.part()
    for row in inputs:
        log_p = functional.log_softmax(model(row[None])[0], 0)
        for label in range(10):
            model.zero_grad()
            (-log_p[label]).backward(retain_graph=True)
            for name, p in model.named_parameters():
                expected[name] += log_p[label].detach().exp() * p.grad.square() / len(inputs)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-7)


def test_batches_square_their_mean_gradient(trained, splits):
    rows = splits.rows("forget").take(torch.arange(4))
    found = batch_fisher(trained, rows, 2)
    model, inputs, labels = deepcopy(trained).eval(), *rows.part()
    expected = torch.zeros_like(weights(model))
    for half in (slice(0, 2), slice(2, 4)):
        model.zero_grad()
        functional.cross_entropy(model(inputs[half]), labels[half]).backward()
        expected += torch.cat([p.grad.flatten() for p in model.parameters()]).square() / 2
    torch.testing.assert_close(torch.cat([g.flatten() for g in found.values()]), expected, rtol=1e-3, atol=1e-8)


def test_variance_is_inverse_capped_averaged_and_larger_at_the_end():
    method = FisherForgetting(alpha=0.5, cap=1e3, last_layer_cap=1e2)
    diagonal = torch.tensor([[0.1, 0.0], [0.5, 0.25]])
    inner = method.variance(diagonal, last_layer=False)
    torch.testing.assert_close(inner, 0.5 * torch.tensor([[505.0, 505.0], [3.0, 3.0]]), rtol=1e-5, atol=0)
    last = method.variance(diagonal, last_layer=True)
    torch.testing.assert_close(last, 5.0 * torch.tensor([[55.0, 55.0], [3.0, 3.0]]), rtol=1e-5, atol=0)
    vector = method.variance(torch.tensor([0.1, 0.0]), last_layer=False)
    torch.testing.assert_close(vector, 5.0 * torch.tensor([10.0, 1000.0]), rtol=1e-5, atol=0)


def test_weights_that_matter_move_less(splits):
    """A linear model whose second half of inputs is always 0: those weights have no Fisher information."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10))
    splits.rows("retain")
    moved = FisherForgetting(epochs=2.0, alpha=1e-6).unlearn(model, splits).model
    change = (moved[1].weight - model[1].weight).detach().abs()
    seen = splits.rows("retain").part()[0].flatten(1).abs().amax(0) > 0
    assert (~seen).any()
    result = FisherForgetting(epochs=2.0, alpha=1e-6).unlearn(model, splits)
    assert torch.equal(weights(result.model), weights(moved))
    assert float(change.mean()) > 0
    assert result.report.history["fisher_rows"] == (60.0,)
    assert result.report.cost.gradient_samples == 600


def test_a_budget_below_one_row_is_refused(trained, splits):
    with pytest.raises(DataError, match="pay for no row at 10 gradients"):
        FisherForgetting(epochs=0.01).unlearn(trained, splits)


def test_a_model_that_cannot_be_vectorised_is_refused(splits):
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x):
            return self.layer(x.flatten(1)) * (1.0 if float(x.sum()) > 0 else 2.0)

    with pytest.raises(DataError, match=r"torch\.func\.vmap"):
        fisher(Branching(), Rows.of((torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2]))), 3)
