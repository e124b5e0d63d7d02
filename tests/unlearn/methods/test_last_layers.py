from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from digits import loss_on, network

from amu_fast.errors import DataError
from amu_fast.unlearn.last_layers import LastLayers
from amu_fast.unlearn.methods import CfK, EuK
from amu_fast.unlearn.optimise import Sgd

TRAIN = {"epochs": 3.0, "batch_size": 30, "optimiser": Sgd(lr=0.05)}


def changed(before, after):
    """Names of parameters and statistics that differ."""
    first, second = before.state_dict(), after.state_dict()
    return {name for name in first if not torch.equal(first[name], second[name])}


@pytest.mark.parametrize(
    ("k", "moves"),
    [(1, {"9.weight", "9.bias"}), (2, {"4.weight", "4.bias", "5.weight", "5.bias", "9.weight", "9.bias"})],
)
def test_only_the_last_k_layers_and_their_normalisation_move(trained, splits, k, moves):
    statistics = {"5.running_mean", "5.running_var", "5.num_batches_tracked"} if k == 2 else set()
    for method in (CfK(k=k, **TRAIN), EuK(k=k, **TRAIN)):
        assert changed(trained, method.unlearn(trained, splits).model) == moves | statistics


def test_parameters_may_train_again_afterwards(trained, splits):
    model = CfK(k=1, **TRAIN).unlearn(trained, splits).model
    assert all(p.requires_grad for p in model.parameters())
    assert all(p.requires_grad for p in trained.parameters())


def test_exact_unlearning_of_k_layers_forgets_what_these_layers_were(trained, splits):
    """The same run from another last layer ends bitwise in the same model: nothing of the old layer is left."""
    other = deepcopy(trained)
    with torch.no_grad():
        other[9].weight.mul_(-3.0)
    first, second = (EuK(k=1, **TRAIN).unlearn(m, splits, seed=4).model for m in (trained, other))
    assert not changed(first, second)
    cf = [CfK(k=1, **TRAIN).unlearn(m, splits, seed=4).model for m in (trained, other)]
    assert changed(*cf) == {"9.weight", "9.bias"}


def test_all_layers_learn_the_task_from_scratch(splits):
    model = EuK(k=3, epochs=12.0, batch_size=30, optimiser=Sgd(lr=0.05)).unlearn(network(), splits).model
    assert loss_on(model, splits, "retain") < 0.7


@pytest.mark.parametrize("k", [0, 4])
def test_k_has_to_fit(trained, k):
    with pytest.raises(DataError, match=f"k must lie in 1 to 3, the model's convolution and linear layers, got {k}"):
        LastLayers.of(trained, k)


def test_something_else_than_a_model_is_refused():
    with pytest.raises(DataError, match="model is a list"):
        LastLayers.of([1], 1)
