from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from digits import PARTS, gradients, loss_on, weights
from torch.nn import functional

from amu_fast.errors import DataError
from amu_fast.splits import Splits
from amu_fast.unlearn.methods import RandomLabels
from amu_fast.unlearn.methods.random_labels import mislabelled
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.streams import generator

PLAIN = Sgd(lr=0.01, momentum=0.0, weight_decay=0.0, schedule="constant")


def drawn(splits, kind):
    rows = splits.rows("forget")
    fetches = mislabelled(rows, kind, 10, generator(0, "labels"))
    everything = torch.arange(len(rows))
    return rows.labels(), [fetches.fetch(everything)[1] for _ in range(2)]


def test_labels_drawn_once_stay_and_are_never_true(splits):
    true, (first, again) = drawn(splits, "once")
    assert torch.equal(first, again)
    assert not (first == true).any()


def test_labels_redrawn_at_each_access_change_and_are_never_true(splits):
    true, (first, again) = drawn(splits, "each_access")
    assert not torch.equal(first, again)
    assert not (first == true).any()
    assert not (again == true).any()


def test_uniform_labels_stay_and_are_true_by_chance(splits):
    true, (first, again) = drawn(splits, "uniform")
    assert torch.equal(first, again)
    assert 0 < int((first == true).sum()) < 30  # of 100 rows and 10 classes: mean 10, deviation 3


def test_one_step_follows_the_gradient_of_the_mixture(trained, splits):
    """With one batch of all rows and one variant of labels, the step is that of CE on retain and relabelled rows."""
    spec = RandomLabels(epochs=1.0, batch_size=400, optimiser=PLAIN)
    model = spec.unlearn(trained, splits, seed=3).model
    reference = deepcopy(trained).train()
    relabelled = mislabelled(splits.rows("forget"), "once", 10, generator(3, "random_labels"))
    (a, b), (c, d) = splits.rows("retain").part(), relabelled.fetch(torch.arange(100))
    functional.cross_entropy(reference(torch.cat([a, c])), torch.cat([b, d])).backward()
    step = (weights(trained) - weights(model)) / 0.01
    torch.testing.assert_close(step, gradients(reference), rtol=2e-3, atol=2e-4)


def test_without_retain_data_no_retain_row_is_read(trained, digits):
    inputs, labels = digits
    poisoned = inputs.clone()
    poisoned[list(PARTS["retain"])] = float("nan")
    poisoned[0] = inputs[0]  # the model is tried on one row at the door
    splits = Splits.from_indices((poisoned, labels), **PARTS)
    model = RandomLabels(epochs=1.5, retain=False, batch_size=50, optimiser=Sgd(lr=0.02)).unlearn(trained, splits).model
    assert loss_on(model, splits, "forget") > loss_on(trained, splits, "forget") + 0.3


def test_unknown_labels_are_named():
    with pytest.raises(DataError, match=r"labels must be one of .*, got 'twice'"):
        RandomLabels(labels="twice")
