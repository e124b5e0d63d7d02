"""The influence step: Newton's step on a convex model, towards retraining on a network."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from digits import gradients, loss_on, weights
from torch import nn
from torch.nn import functional

from amu_fast.audit.predict import eval_mode
from amu_fast.errors import DataError, SolveError
from amu_fast.linalg import ConjugateGradient
from amu_fast.splits import Splits
from amu_fast.unlearn.methods import Influence, Retrain
from amu_fast.unlearn.newton_step import layer_choice, mean_gradient
from amu_fast.unlearn.optimise import Sgd

L2 = 1e-2
TIGHT = ConjugateGradient(rtol=1e-10)


def linear():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    return model


def fitted(inputs, labels, steps=7):
    """Multinomial logistic regression with l2 on everything, by Newton's method with the dense Hessian."""
    model = linear()
    x = torch.cat([inputs.flatten(1), torch.ones(len(inputs), 1, dtype=torch.float64)], 1)
    w = torch.zeros(10, 65, dtype=torch.float64)
    one_hot = functional.one_hot(labels, 10).double()
    for _ in range(steps):
        p = (x @ w.T).softmax(-1)
        slope = (p - one_hot).T @ x / len(x) + L2 * w
        b = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        h = torch.einsum("nij,na,nb->iajb", b, x, x).reshape(650, 650) / len(x)
        w = w - torch.linalg.solve(h + L2 * torch.eye(650).double(), slope.flatten()).reshape(10, 65)
    with torch.no_grad():
        model[1].weight.copy_(w[:, :-1])
        model[1].bias.copy_(w[:, -1])
    return model


@pytest.fixture(scope="module")
def retrained(trained, splits):
    return Retrain(epochs=15, batch_size=32, optimiser=Sgd(lr=0.05)).unlearn(trained, splits).model


@pytest.fixture(scope="module")
def regression(digits):
    """Rows, the model of all of them, and for a number of forget rows the splits and exact retraining."""
    inputs, labels = digits[0][:300].double(), digits[1][:300]

    def cut(count):
        data = (torch.cat([inputs, inputs[:4]]), torch.cat([labels, labels[:4]]))
        parts = {"retain": range(300 - count), "forget": range(300 - count, 300), "validation": range(300, 304)}
        return Splits.from_indices(data, **parts), fitted(inputs[: 300 - count], labels[: 300 - count])

    return fitted(inputs, labels), cut


def slope_and_hessian(model, x, y):
    """Gradient and dense Hessian of the l2-regularised mean loss, by autograd."""

    def objective(w):
        logits = x.flatten(1) @ w[:640].reshape(10, 64).T + w[640:]
        return functional.cross_entropy(logits, y) + L2 / 2 * w.square().sum()

    w = weights(model).requires_grad_()
    return torch.autograd.grad(objective(w), w)[0], torch.autograd.functional.hessian(objective, w, vectorize=True)


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
def test_on_logistic_regression_it_is_newtons_step(regression, curvature):
    """λ = l2: from the optimum of all rows, exactly Newton's step for the regularised loss of the retain rows."""
    model, cut = regression
    splits, retrained = cut(20)
    method = Influence(damping=L2, curvature=curvature, solver=TIGHT, epochs=2000, mode="double_backward")
    after = weights(method.unlearn(model, splits).model)
    slope, hessian = slope_and_hessian(model, *splits.rows("retain").part())
    torch.testing.assert_close(after, weights(model) - torch.linalg.solve(hessian, slope), rtol=0, atol=1e-8)
    distance = float((weights(model) - weights(retrained)).norm())
    assert float((after - weights(retrained)).norm()) < 0.06 * distance


@pytest.mark.parametrize(("curvature", "damping"), [("gauss_newton", 0.05), ("fisher", 0.2), ("hessian", 0.5)])
def test_on_a_network_it_moves_towards_retraining(trained, retrained, splits, curvature, damping):
    method = Influence(curvature=curvature, damping=damping, solver=ConjugateGradient(rtol=1e-2), epochs=200)
    result = method.unlearn(trained, splits)
    before, after, goal = (loss_on(m, splits, "forget") for m in (trained, result.model, retrained))
    assert before + 0.1 < after < goal
    assert loss_on(result.model, splits, "retain") < loss_on(trained, splits, "retain") + 0.1
    row = {name: column[0] for name, column in result.report.history.items()}
    assert row["ihvp_steps"] >= 1
    assert row["ihvp_residual"] <= 1e-2
    assert row["update_norm"] == pytest.approx(float((weights(result.model) - weights(trained)).norm()), rel=1e-4)
    per_product = {"hessian": 3.0, "gauss_newton": 2.0, "fisher": 2.0}[curvature] * 300
    products = (result.report.cost.gradient_samples - 400) / per_product
    assert products == pytest.approx(row["ihvp_steps"] + 1 + row["ihvp_steps"] // 50, abs=1.01)


def test_only_chosen_layers_move_and_modes_stay(trained, splits):
    before = deepcopy(trained.state_dict())
    result = Influence(layers=("9", "4.bias"), damping=0.1).unlearn(trained, splits)
    moved = {name for name, tensor in result.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"9.weight", "9.bias", "4.bias"}
    assert all(torch.equal(a, b) for a, b in zip(before.values(), trained.state_dict().values(), strict=True))
    assert not result.model.training
    choice = layer_choice(lambda name, parameter: parameter.ndim == 1)
    assert choice("x", nn.Parameter(torch.zeros(2)))
    assert not choice("x", nn.Parameter(torch.zeros(2), requires_grad=False))
    with pytest.raises(DataError, match="no parameter was chosen"):
        Influence(layers=("head",)).unlearn(trained, splits)


def test_the_scale_scales_and_few_curvature_rows_are_drawn_by_the_seed(trained, splits):
    def update(**options):
        method = Influence(layers=("9",), damping=0.1, curvature_rows=100, **options)
        return weights(method.unlearn(trained, splits, seed=3).model) - weights(trained)

    one = update()
    torch.testing.assert_close(update(scale=2.0), 2 * one, rtol=1e-3, atol=1e-6)
    assert torch.equal(update(), one)


def test_a_budget_below_what_the_solve_needs_raises_or_is_accepted(trained, splits):
    tight = {"damping": 1e-3, "epochs": 12.0, "solver": ConjugateGradient(rtol=1e-6)}
    with pytest.raises(SolveError, match=r"ended as MAX_STEPS after 4 steps.*Raise epochs or damping"):
        Influence(**tight).unlearn(trained, splits)
    result = Influence(accept_unsolved=True, **tight).unlearn(trained, splits)
    assert result.report.cost.gradient_samples <= 12 * 300
    assert result.report.history["ihvp_residual"][0] > 1e-6
    with pytest.raises(DataError, match="raise epochs or lower curvature_rows"):
        Influence(epochs=2.0).unlearn(trained, splits)


def test_mean_gradient_is_that_of_one_big_batch(trained, splits):
    x, y = splits.rows("retain").part()
    reference = deepcopy(trained)
    with eval_mode(reference):
        loss = functional.cross_entropy(reference(x), y)
    loss.backward()
    batches = [(x[:7], y[:7]), (x[7:], y[7:])]
    value, gradient = mean_gradient(trained, lambda m, b: functional.cross_entropy(m(b[0]), b[1]), batches)
    torch.testing.assert_close(value, loss.detach())
    torch.testing.assert_close(gradient, gradients(reference), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale must be > 0 and finite, got 0.0"),
        ({"damping": -1.0}, "damping must be >= 0 and finite, got -1.0"),
        ({"curvature": "newton"}, "curvature must be one of .* got 'newton'"),
        ({"mode": "forward"}, "mode must be one of .* got 'forward'"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"curvature_rows": 0}, "curvature_rows must be >= 1, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(DataError, match=message):
        Influence(**options)
