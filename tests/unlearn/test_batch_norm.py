from __future__ import annotations

import pytest
import torch
from torch import nn

from amu_fast.unlearn.batch_norm import latest_statistics


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_inside_the_batch_counts_alone_and_outside_the_average_is_as_if_nothing_happened(momentum):
    batches = torch.randn(4, 32, 3) * 2 + 1
    mine, plain = nn.BatchNorm1d(3, momentum=momentum), nn.BatchNorm1d(3, momentum=momentum)
    for batch in batches:
        plain(batch)
        with latest_statistics(mine):
            mine(batch)
            torch.testing.assert_close(mine.running_mean, batch.mean(0))
            torch.testing.assert_close(mine.running_var, batch.var(0))
    assert mine.momentum == momentum
    torch.testing.assert_close(mine.running_mean, plain.running_mean)
    torch.testing.assert_close(mine.running_var, plain.running_var)


def test_layers_in_eval_mode_keep_their_statistics():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    model[0].eval()
    with latest_statistics(model):
        model(torch.randn(8, 3) + 5)
        assert model[0].running_mean.tolist() == [0, 0, 0]
        assert model[0].momentum == 0.1


def test_the_average_survives_an_error():
    layer = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="more than 1 value"), latest_statistics(layer):
        layer(torch.randn(1, 3))
    assert layer.momentum == 0.1
    assert layer.running_mean.tolist() == [0, 0, 0]
