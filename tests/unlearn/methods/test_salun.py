from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from digits import gradients, weights
from torch.nn import functional

from amu_fast.errors import DataError
from amu_fast.unlearn.methods import SalUn
from amu_fast.unlearn.methods.salun import saliency
from amu_fast.unlearn.optimise import Sgd


def flat(named):
    return torch.cat([value.flatten() for value in named.values()])


def test_the_mask_is_the_largest_absolute_sum_of_signed_gradients(trained, splits):
    rows = splits.rows("forget")
    mask = flat(saliency(trained, rows, 0.3, batch_size=25))
    model = deepcopy(trained).eval()
    inputs, labels = rows.part()
    (functional.cross_entropy(model(inputs), labels) * len(labels)).backward()  # signs kept: one sum over all batches
    size = gradients(model).abs()
    expected = size >= size.sort(descending=True).values[round(0.3 * len(size)) - 1]
    assert (mask == expected).float().mean() > 0.999
    assert int(mask.sum()) == round(0.3 * len(mask))


def test_masked_weights_stay_exactly_whatever_decay_and_momentum_want(trained, splits):
    method = SalUn(epochs=2.0, rounds=4, share=0.2, batch_size=50, optimiser=Sgd(lr=0.05, weight_decay=0.1))
    model = method.unlearn(trained, splits).model
    mask = flat(saliency(trained, splits.rows("forget"), 0.2, batch_size=50))
    still = weights(model) == weights(trained)
    assert still[~mask].all()
    assert still[mask].float().mean() < 0.05


def test_rounds_forget_first_and_then_retain(trained, splits):
    report = SalUn(epochs=3.0, rounds=2, batch_size=50, optimiser=Sgd(lr=1e-3)).unlearn(trained, splits).report
    kinds = "".join("r" if loss is None else "f" for loss in report.history["forget_loss"])
    assert report.cost.gradient_samples == 900  # 100 of them for the mask
    assert kinds == "ff" + "rrrrr" + "ff" + "rrrrrrr"


def test_the_share_is_checked():
    with pytest.raises(DataError, match=r"share must lie in \(0, 1\], got 0"):
        SalUn(share=0.0)
