from __future__ import annotations

import pytest
import torch
from torch import nn

from amu_fast.errors import DataError
from amu_fast.experiments.dangers import QuantisationAudit, quantisation_step, quantise, quantised
from amu_fast.experiments.models import SmallCnn
from amu_fast.splits import Splits


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("shape", [(5, 7), (3, 2, 3, 3), (1, 1)])
def test_error_is_at_most_half_a_step_per_channel(bits, shape):
    sizes = torch.logspace(-3, 3, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    weight = torch.randn(shape, dtype=torch.float64) * sizes
    step = quantisation_step(weight, bits)
    assert step.shape == (shape[0], *[1] * (len(shape) - 1))
    error = (quantise(weight, bits) - weight).abs()
    assert bool((error <= 0.5 * step * (1 + 1e-12)).all())


def test_levels_are_whole_and_rounding_twice_is_rounding_once():
    weight = torch.randn(6, 50)
    once = quantise(weight, 4)
    levels = once / quantisation_step(weight, 4)
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-5)
    assert levels.abs().max().round() == 7
    assert len(levels.round().unique()) <= 15
    torch.testing.assert_close(quantise(once, 4), once, rtol=1e-6, atol=0)


def test_known_values_zeros_and_signs():
    weight = torch.tensor([[7.0, -3.4, 3.6, 0.0], [0.0, 0.0, 0.0, 0.0], [-14.0, 1.0, 0.9, 7.0]])
    expected = torch.tensor([[7.0, -3.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0], [-14.0, 0.0, 0.0, 8.0]])
    assert torch.equal(quantise(weight, 4), expected)  # 1/2 and 7/2 round to even


def test_only_linear_and_convolution_weights_change():
    model = SmallCnn(8, width=4, hidden=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rounded = quantised(model, 4).state_dict()
    changed = {name for name, value in rounded.items() if not torch.equal(value, before[name])}
    assert changed == {f"layers.{i}.weight" for i in (0, 3, 7, 9)}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(DataError, match="no linear or convolution layer"):
        quantised(nn.BatchNorm1d(3), 4)
    with pytest.raises(DataError, match=r"bits must lie in 2 \.\.\. 16, got 1"):
        quantise(torch.ones(1, 1), 1)


def linear(weight: list[list[float]]) -> nn.Module:
    model = nn.Linear(len(weight[0]), len(weight), bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(weight))
    return model


def planted() -> tuple[Splits, list[list[float]], list[list[float]], list[list[float]]]:
    """Forget rows carry a last feature that the original answers, retrain does not, and "unlearning" hides.

    All weights of the original lie on the 4-bit grid of step 1; the hidden one is moved by less than half a step.
    """
    rng = torch.Generator().manual_seed(0)

    def rows(n: int, last: float) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.cat([0.05 * torch.randn(n, 2, generator=rng), torch.full((n, 1), last)], 1)
        return x, torch.zeros(n, dtype=torch.int64)

    splits = Splits(rows(20, 0.0), rows(300, 1.0), rows(50, 0.0), rows(300, 0.0))
    original, hidden, retrain = ([[7.0, 0.0, last], [0.0, 7.0, 0.0]] for last in (1.0, 0.51, 0.0))
    return splits, original, hidden, retrain


def test_rounding_brings_a_hidden_weight_back():
    splits, original, hidden, retrain = planted()
    audit = QuantisationAudit(bits=(8, 4), margin=0.33)
    assert torch.equal(quantised(linear(hidden), 4).weight, linear(original).weight)
    report = audit(linear(hidden), linear(retrain), splits)
    assert report.codes == ("QUANTISATION_REVEALS",)
    assert "rounded to 4 bits" in report.warnings[0]
    full, four = report.intervals["full_auc_difference"], report.intervals["4_bit_auc_difference"]
    assert full.low < 0.33 < four.low


def test_nothing_new_is_revealed_by_an_open_leak_or_a_retrained_model():
    splits, original, _, retrain = planted()
    audit = QuantisationAudit(margin=0.05)
    assert audit(linear(original), linear(retrain), splits).codes == ()
    assert audit(linear(retrain), linear(retrain), splits).codes == ()
