from __future__ import annotations

import math

import pytest
import torch

from amu_fast.errors import DataError
from amu_fast.unlearn.meter import GradientSamples
from amu_fast.unlearn.optimise import Optimiser, Sgd


def test_cosine_follows_the_budget():
    spec = Sgd(lr=0.2)
    for q in (0.0, 0.25, 0.5, 1.0):
        assert spec.rate(q) == pytest.approx(0.1 * (1 + math.cos(math.pi * q)))
    assert spec.rate(1.5) == pytest.approx(0.0)


def test_steps_fall_tenfold_at_half_and_three_quarters():
    spec = Sgd(lr=1.0, schedule="steps")
    assert [spec.rate(q) for q in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warmup_rises_linearly_and_the_first_step_moves():
    spec = Sgd(lr=1.0, schedule="constant", warmup=0.5)
    assert [spec.rate(q, 0.1) for q in (0.0, 0.1, 0.4, 0.9)] == pytest.approx([0.2, 0.4, 1.0, 1.0])


def test_a_step_equals_torchs_sgd_with_clipping():
    mine, theirs = (torch.nn.Parameter(torch.tensor([3.0, -4.0])) for _ in range(2))
    optimiser = Optimiser(Sgd(lr=0.1, momentum=0.9, weight_decay=0.01, schedule="constant", clip=1.0), [mine])
    reference = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        for parameter in (mine, theirs):
            parameter.grad = 2 * parameter.detach()
        theirs.grad /= max(1.0, theirs.grad.norm() + 1e-6)
        optimiser.step(0.0, 0.1)
        reference.step()
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": 0.0}, "lr must be > 0 and finite, got 0.0"),
        ({"lr": float("nan")}, "got nan"),
        ({"lr": 0.1, "momentum": 1.0}, "momentum must lie in"),
        ({"lr": 0.1, "weight_decay": -1.0}, "weight_decay must be >= 0, got -1.0"),
        ({"lr": 0.1, "schedule": "square"}, "got 'square'"),
        ({"lr": 0.1, "warmup": 1.0}, "warmup is a share"),
        ({"lr": 0.1, "clip": 0.0}, "clip must be > 0, got 0.0; use None"),
    ],
)
def test_bad_options(fields, message):
    with pytest.raises(DataError, match=message):
        Sgd(**fields)


def test_rows_forward_only_count_a_third():
    meter = GradientSamples.of_epochs(2.0, 30)
    meter.add(30)
    meter.add(30, backward=False)
    assert meter.used == pytest.approx(40.0)
    assert not meter.exhausted
    meter.add(60, backward=False)
    assert meter.exhausted


@pytest.mark.parametrize("epochs", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_budget(epochs):
    with pytest.raises(DataError, match="epochs must be > 0"):
        GradientSamples.of_epochs(epochs, 10)
