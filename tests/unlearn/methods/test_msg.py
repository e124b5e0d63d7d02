from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from amu_fast.errors import DataError
from amu_fast.unlearn.curvature import batch_gradients
from amu_fast.unlearn.methods import Msg
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.streams import generator

STILL = Sgd(lr=1e-12, momentum=0.0, weight_decay=0.0, schedule="constant")


def pull(model, splits, seed, name):
    """Sum of gradients over as many retain rows as forget rows, minus that over the forget rows."""
    retain, forget = splits.rows("retain"), splits.rows("forget")
    drawn = torch.randperm(len(retain), generator=generator(seed, "msg"))[: len(forget)]
    sums = [sum(n * g[name] for n, g in batch_gradients(model, rows, 50)) for rows in (retain.take(drawn), forget)]
    return (sums[0] - sums[1]).abs()


@pytest.mark.parametrize("name", ["0.weight", "4.weight"])
def test_in_each_convolution_the_smallest_differences_are_drawn_anew(trained, splits, name):
    model = Msg(epochs=1.0, share=0.3, optimiser=STILL).unlearn(trained, splits, seed=2).model
    before, after = (dict(m.named_parameters())[name].detach() for m in (trained, model))
    fresh = (after - before).abs() > 1e-9
    size = pull(deepcopy(trained), splits, 2, name)
    expected = size <= size.flatten().sort().values[round(0.3 * size.numel()) - 1]
    assert (fresh == expected).float().mean() > 0.98
    deviation = (2.0 / (before.shape[0] * 9)) ** 0.5  # Kaiming, fan-out = output channels x window
    assert 0.6 * deviation < float(after[fresh].std()) < 1.4 * deviation


def test_other_convolution_weights_move_at_a_tenth(trained, splits):
    """One plain step: fresh weights follow the gradient, the others a tenth of it, linear layers all of it."""
    still = Msg(epochs=1.6, batch_size=300, optimiser=STILL).unlearn(trained, splits, seed=2).model
    plain = Sgd(lr=1e-3, momentum=0.0, weight_decay=0.0, schedule="constant")
    full, tenth = (
        Msg(epochs=1.6, batch_size=300, kept_rate=rate, optimiser=plain).unlearn(trained, splits, seed=2).model
        for rate in (1.0, 0.1)
    )
    start, whole, part = (dict(m.named_parameters()) for m in (still, full, tenth))
    name = "4.weight"
    fresh = (start[name] - dict(trained.named_parameters())[name]).abs() > 1e-9
    wanted = torch.where(fresh, 1.0, 0.1) * (whole[name] - start[name])
    torch.testing.assert_close(part[name] - start[name], wanted, rtol=1e-2, atol=2e-7)
    torch.testing.assert_close(part["9.weight"], whole["9.weight"])


def test_a_model_without_convolutions_is_refused(splits):
    with pytest.raises(DataError, match="the model has no trained convolution"):
        Msg().unlearn(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), splits)


def test_options_are_checked():
    with pytest.raises(DataError, match=r"share must lie in \(0, 1\), got 1"):
        Msg(share=1.0)
    with pytest.raises(DataError, match=r"kept_rate must lie in \[0, 1\], got 2"):
        Msg(kept_rate=2.0)
