"""A network that memorised its training rows, trained once."""

from __future__ import annotations

import pytest
from digits import PARTS, network, noisy_digits
from torch import Tensor, nn

from amu_fast.splits import Splits
from amu_fast.unlearn.methods import Retrain
from amu_fast.unlearn.optimise import Sgd


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    return noisy_digits()


@pytest.fixture(scope="session")
def splits(digits: tuple[Tensor, Tensor]) -> Splits:
    return Splits.from_indices(digits, **PARTS)


@pytest.fixture(scope="session")
def trained(digits: tuple[Tensor, Tensor]) -> nn.Module:
    """Trained on the retain and forget rows until it knows them by heart, in eval mode."""
    everything = Splits.from_indices(digits, retain=range(400), forget=[400], validation=range(401, 404))
    recipe = Retrain(epochs=20, batch_size=40, optimiser=Sgd(lr=0.05, weight_decay=0.0))
    return recipe.unlearn(network(), everything).model.eval()
