from __future__ import annotations

import pytest
import torch
from torch import nn

from amu_fast.errors import DataError
from amu_fast.experiments.models import SmallCnn, resnet18
from amu_fast.unlearn.methods.retrain import reinitialise


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_one_channel_has_the_weights_it_always_had():
    """The first convolution's fan-in is 9, so PyTorch draws it from ±1/3; the draw is the seed's first."""
    torch.manual_seed(5)
    first = nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False)
    assert torch.equal(SmallCnn(8, width=4, hidden=16, seed=5).layers[0].weight, first.weight)


def test_colour_images():
    model = SmallCnn(side=32, width=4, hidden=16, channels=3)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert parameters(model) - parameters(SmallCnn(side=32, width=4, hidden=16)) == 2 * 4 * 9
    with pytest.raises(DataError, match="all sizes must be >= 1"):
        SmallCnn(channels=0)


@pytest.mark.parametrize(("classes", "count"), [(10, 11_173_962), (100, 11_220_132)])
def test_resnet_18_has_the_published_size(classes, count):
    assert parameters(resnet18(classes)) == count


def test_resnet_18_keeps_small_images_large_and_takes_other_sizes():
    model = resnet18(7, channels=1).eval()
    shapes = []
    for layer in model:
        layer.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape)))
    with torch.no_grad():
        assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
        assert shapes[0] == (2, 64, 32, 32)
        assert [s[1:3] for s in shapes[3:11:2]] == [(64, 32), (128, 16), (256, 8), (512, 4)]
        assert model(torch.zeros(1, 1, 28, 28)).shape == (1, 7)


def test_resnet_18_is_seeded_and_can_be_retrained_from_scratch():
    first, again, other = resnet18(seed=1), resnet18(seed=1), resnet18(seed=2)
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    reinitialise(first)
    assert not torch.equal(first[0].weight, again[0].weight)
