from __future__ import annotations

import pytest
import torch
from digits import PARTS, loss_on
from torch import nn

from amu_fast.audit.predict import predict
from amu_fast.errors import DataError
from amu_fast.splits import Splits
from amu_fast.unlearn.adversarial import Perturbation
from amu_fast.unlearn.methods import Amun
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.training import Run

SEARCH = Perturbation(radius=0.2, steps=20, doublings=8, low=0.0, high=1.0)


def found(trained, splits, perturbation, allowance=1e9):
    run = Run(Amun(epochs=1.0), trained, splits, 0)
    return run, perturbation.of(run, run.rows("forget"), 40, allowance)


def test_neighbours_are_answered_otherwise_and_lie_in_the_box(trained, splits):
    _, near = found(trained, splits, SEARCH)
    labels = splits.rows("forget").labels()
    said, _ = predict(trained, (near.inputs, near.answers))
    right = predict(trained, splits.rows("forget"))[0].argmax(1) == labels
    assert len(near) == 100
    assert torch.equal(said.argmax(1)[right], near.answers[right])
    assert not (near.answers[right] == labels[right]).any()
    assert near.inputs.min() >= 0.0
    assert near.inputs.max() <= 1.0


def test_the_first_radius_that_works_is_kept(trained, splits):
    """Each row lies within the smallest doubling at which it changed, and most changed long before the largest."""
    _, near = found(trained, splits, SEARCH)
    inputs = splits.rows("forget").part()[0]
    distance = (near.inputs - inputs[near.rows]).flatten(1).norm(dim=1)
    assert distance.max() <= 0.2 * 2**8
    assert distance.median() < 1.7
    _, small = found(trained, splits, Perturbation(radius=0.2, steps=20, doublings=0, low=0.0, high=1.0))
    within = (small.inputs - inputs[small.rows]).flatten(1).norm(dim=1)
    assert within.max() <= 0.2 + 1e-5
    kept = {int(r): x for r, x in zip(near.rows, near.inputs, strict=True)}
    assert all(torch.allclose(kept[int(r)], x, atol=1e-5) for r, x in zip(small.rows, small.inputs, strict=True))


def test_a_step_has_a_tenth_of_the_radius_whatever_the_gradient(trained, splits):
    inputs, labels = splits.rows("forget").part()
    moved = Perturbation(radius=0.5)._step(trained.eval(), inputs, labels, inputs, 0.5)
    norms = (moved - inputs).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((100,), 0.05), rtol=1e-4, atol=1e-6)


def test_the_search_is_charged_and_ends_with_its_allowance(trained, splits):
    run, near = found(trained, splits, SEARCH, allowance=300.0)
    assert 300.0 - 60 < run.meter.used <= 300.0 + 40
    assert 0 < len(near) < 100


def test_training_reads_retain_rows_only_if_asked(trained, digits):
    inputs, labels = digits
    poisoned = inputs.clone()
    poisoned[list(PARTS["retain"])] = float("nan")
    poisoned[0] = inputs[0]
    splits = Splits.from_indices((poisoned, labels), **PARTS)
    spec = Amun(epochs=12.0, perturbation=SEARCH, retain=False, forget=False, batch_size=40, optimiser=Sgd(lr=0.01))
    result = spec.unlearn(trained, splits)
    assert loss_on(result.model, splits, "forget") > loss_on(trained, splits, "forget") + 0.05
    assert result.report.history["neighbours"][0] > 10.0


def test_confidence_falls_on_forget_rows_and_accuracy_stays(trained, splits):
    spec = Amun(epochs=20.0, perturbation=SEARCH, forget=False, batch_size=40, optimiser=Sgd(lr=0.01))
    model = spec.unlearn(trained, splits).model
    assert loss_on(model, splits, "forget") > loss_on(trained, splits, "forget") + 0.05
    logits, labels = predict(model, splits.rows("retain"))
    assert (logits.argmax(1) == labels).float().mean() > 0.9


def test_bad_options_and_hopeless_searches(trained, splits):
    with pytest.raises(DataError, match="radius must be > 0 and finite, got 0"):
        Perturbation(radius=0.0)
    with pytest.raises(DataError, match="steps must be >= 1 and doublings >= 0, got 0 and 3"):
        Perturbation(steps=0, doublings=3)
    with pytest.raises(DataError, match=r"search_share must lie in \(0, 1\), got 1"):
        Amun(search_share=1.0)
    stuck = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        stuck[1].weight.zero_()
    single = Splits.from_indices(
        (torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64)), retain=[0, 1], forget=[2, 3], validation=[4, 5]
    )
    with torch.no_grad():
        stuck[1].bias.copy_(torch.arange(10.0).flip(0))
    with pytest.raises(DataError, match="none of 2 rows changed its answer"):
        Amun(epochs=500.0, perturbation=Perturbation(doublings=1)).unlearn(stuck, single)
