from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from digits import PARTS, loss_on
from torch import nn
from torch.nn import functional

from amu_fast.audit.predict import predict
from amu_fast.errors import DataError
from amu_fast.splits import Splits
from amu_fast.unlearn.adversarial import Perturbation, Perturbed
from amu_fast.unlearn.methods import ZsPag
from amu_fast.unlearn.methods.zs_pag import pseudo_labels
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.subspaces import basis, layer_inputs, project_out

SEARCH = Perturbation(radius=0.2, steps=20, doublings=8, low=0.0, high=1.0)


def test_moments_are_those_of_the_rows_that_a_weight_multiplies(trained, splits):
    inputs = splits.rows("forget").part()[0]
    moments = layer_inputs(trained, iter(inputs.split(30)))
    windows = functional.unfold(inputs, 3, padding=1).transpose(1, 2).reshape(-1, 9)
    torch.testing.assert_close(moments["0"], windows.T @ windows, rtol=1e-4, atol=1e-3)
    hidden = trained.eval()[:9](inputs)
    torch.testing.assert_close(moments["9"], (hidden.T @ hidden).detach(), rtol=1e-4, atol=1e-3)
    assert moments["4"].shape == (72, 72)


def test_a_projected_step_does_not_change_outputs_on_the_subspace():
    torch.manual_seed(0)
    rows = torch.randn(40, 3, dtype=torch.float64) @ torch.randn(3, 12, dtype=torch.float64)
    directions = basis(rows.T @ rows, 1.0 - 1e-12)
    assert directions.shape == (12, 3)
    layer = nn.Conv2d(3, 5, 2).double()
    step = project_out(torch.randn_like(layer.weight), directions)
    assert float(step.norm()) > 0.1
    assert float((rows @ step.flatten(1).T).abs().max()) < 1e-10


def test_energy_chooses_the_rank():
    moment = torch.diag(torch.tensor([6.0, 3.0, 0.9, 0.1]))
    assert [basis(moment, e).shape[1] for e in (0.5, 0.61, 0.91, 1.0)] == [1, 2, 3, 4]


def test_pseudo_labels_are_the_wrong_classes_of_least_influence(trained, splits):
    """Against finite differences: a small step of the last layer on (x, c), and the stand-ins' loss after it."""
    forget = splits.rows("forget").take(torch.arange(5))
    inputs, answers = splits.rows("retain").part()
    stand_ins = Perturbed(inputs[:60], answers[:60], torch.arange(60))
    model = deepcopy(trained).double().eval()
    found = pseudo_labels(model, _double(forget), _doubled(stand_ins))
    x, y = forget.part()
    for row, true, chosen in zip(x.double(), y, found, strict=True):
        losses = []
        for label in range(10):
            weight = model[9].weight
            loss = functional.cross_entropy(model(row[None]), torch.tensor([label]))
            (slope,) = torch.autograd.grad(loss, weight)
            saved = weight.detach().clone()
            with torch.no_grad():
                weight -= 1e-5 * slope
                losses.append(float(functional.cross_entropy(model(inputs[:60].double()), answers[:60])))
                weight.copy_(saved)
        losses[int(true)] = float("inf")
        assert int(chosen) == losses.index(min(losses))


def _double(rows):
    inputs, labels = rows.part()
    return Splits((inputs.double(), labels), (inputs.double(), labels), (inputs.double(), labels)).rows("retain")


def _doubled(stand_ins):
    return Perturbed(stand_ins.inputs.double(), stand_ins.answers, stand_ins.rows)


def test_neither_retain_nor_validation_rows_are_read_and_only_weights_move(trained, digits):
    inputs, labels = digits
    poisoned = inputs.clone()
    for part in ("retain", "validation"):
        poisoned[list(PARTS[part])] = float("nan")
    poisoned[0] = inputs[0]
    splits = Splits.from_indices((poisoned, labels), **PARTS)
    spec = ZsPag(epochs=15.0, perturbation=SEARCH, batch_size=50, energy=0.9, optimiser=Sgd(lr=0.01, weight_decay=0.0))
    model = spec.unlearn(trained, splits).model
    assert loss_on(model, splits, "forget") > loss_on(trained, splits, "forget") + 0.2
    for name, value in model.state_dict().items():
        if not name.endswith("weight") or name in ("1.weight", "5.weight"):
            assert torch.equal(value, trained.state_dict()[name]), name


def test_more_energy_protects_the_other_rows_more(trained, splits):
    harm = []
    for energy in (0.3, 0.999):
        spec = ZsPag(
            epochs=15.0, perturbation=SEARCH, batch_size=50, energy=energy, optimiser=Sgd(lr=0.003, weight_decay=0.0)
        )
        logits, labels = predict(spec.unlearn(trained, splits).model, splits.rows("retain"))
        harm.append(float((logits.argmax(1) != labels).float().mean()))
    assert harm[1] < harm[0] - 0.1


def test_what_it_cannot_do_is_refused(splits):
    with pytest.raises(DataError, match=r"energy must lie in \(0, 1\], got 0"):
        ZsPag(energy=0.0)
    grouped = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(72, 10))
    with pytest.raises(DataError, match="convolution 0 has groups"):
        layer_inputs(grouped, iter([torch.zeros(1, 2, 8, 8)]))
    with pytest.raises(DataError, match="no trained linear or 2-d convolution"):
        layer_inputs(nn.Conv1d(1, 1, 1), iter([]))
    with pytest.raises(DataError, match="ends in a linear layer"):
        pseudo_labels(
            nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()),
            splits.rows("forget"),
            Perturbed(torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64), torch.arange(1)),
        )
