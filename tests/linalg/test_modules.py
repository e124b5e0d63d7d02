"""Operators over modules against dense matrices in float64, in every mode, and inside every solver."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from linalg import networks as nets
from torch import nn

from amu_fast.errors import DataError
from amu_fast.linalg import (
    ConjugateGradient,
    CrossEntropy,
    DampedOperator,
    EmpiricalFisherOperator,
    FlatParameters,
    GaussNewtonOperator,
    HessianOperator,
    LinearOperator,
    MeanSquaredError,
    Neumann,
    NystromPreconditioner,
    to_dense,
)

MODES = ("double_backward", "jvp", "finite_difference")
# Central differences in float64: eps^{2/3} is 4e-11, times scales of order 1 to 100 of these networks.
TOLERANCE = {"double_backward": 1e-12, "jvp": 1e-12, "finite_difference": 1e-7}
EVERY_MODE = pytest.mark.parametrize("mode", MODES)


def close(operator, expected, mode="double_backward"):
    assert operator.shape == expected.shape
    assert isinstance(operator, LinearOperator)
    v = nets.normal(2, len(expected), seed=3)
    products = v @ expected
    assert (operator.matvec(v) - products).norm() <= TOLERANCE[mode] * products.norm()


def cross_entropy(z, batch):
    return F.cross_entropy(z, batch[1])


@EVERY_MODE
@pytest.mark.parametrize("sizes", [(11,), (4, 4, 3)], ids=["one batch", "uneven micro-batches"])
def test_hessian_of_an_mlp(mode, sizes):
    model, batch = nets.mlp(), nets.rows()
    close(
        HessianOperator(model, nets.loss, nets.micro(batch, *sizes), mode=mode), nets.dense_hessian(model, batch), mode
    )


@EVERY_MODE
def test_hessian_of_a_convolutional_network_with_running_statistics(mode):
    model, batch = nets.convnet(), (nets.normal(5, 1, 6, 6), torch.tensor([0, 1, 2, 0, 1]))
    close(HessianOperator(model, nets.loss, [batch], mode=mode), nets.dense_hessian(model, batch), mode)


@EVERY_MODE
def test_tied_and_unused_parameters(mode):
    model = nets.filled(nets.Tied())
    batch = torch.tensor([[0, 1], [2, 3], [4, 5], [1, 1]]), torch.tensor([0, 3, 5, 2])
    operator = HessianOperator(model, nets.loss, [batch], mode=mode)
    assert operator.parameters.names == ("embed.weight", "middle.weight", "middle.bias", "unused.weight", "unused.bias")
    close(operator, nets.dense_hessian(model, batch), mode)
    assert not operator.matvec(torch.ones(operator.shape[0], dtype=torch.float64))[-2:].any()
    # By the tied matrix' other name.
    close(
        HessianOperator(model, nets.loss, [batch], mode=mode, parameters=["head"]),
        nets.dense_hessian(model, batch, ["embed.weight"]),
        mode,
    )


@EVERY_MODE
def test_gauss_newton_and_fisher(mode):
    model, batch = nets.mlp(), nets.rows()
    batches = nets.micro(batch, 4, 7)

    def outputs(model, batch):
        return model(batch[0])

    for loss in (CrossEntropy(labels=lambda batch: batch[1]), cross_entropy):
        operator = GaussNewtonOperator(model, outputs, loss, batches, mode=mode)
        close(operator, nets.dense_gauss_newton(model, batch, cross_entropy), mode)
    targets = F.one_hot(batch[1], 3).double()
    squared = [(x, y, t) for (x, y), t in zip(batches, targets.split([4, 7]), strict=True)]
    operator = GaussNewtonOperator(model, outputs, MeanSquaredError(targets=lambda b: b[2]), squared, mode=mode)
    close(operator, nets.dense_gauss_newton(model, batch, lambda z, b: F.mse_loss(z, targets)), mode)
    close(EmpiricalFisherOperator(model, nets.losses, batches, mode=mode), nets.dense_fisher(model, batch), mode)


def test_labels_that_do_not_count_weigh_nothing():
    model, (x, y) = nets.mlp(), nets.rows()
    y = torch.where(torch.arange(11) % 3 == 0, -100, y)
    loss = CrossEntropy(labels=lambda batch: batch[1])
    expected = nets.dense_gauss_newton(model, (x, y), cross_entropy)
    close(GaussNewtonOperator(model, lambda m, b: m(b[0]), loss, nets.micro((x, y), 4, 7)), expected)
    counted = HessianOperator(model, nets.loss, nets.micro((x, y), 4, 7), rows=lambda b: (b[1] != -100).sum())
    close(counted, nets.dense_hessian(model, (x, y)))


@EVERY_MODE
def test_a_subset_leaves_the_others_alone(mode):
    model, batch = nets.mlp(), nets.rows()
    names = ["2.weight", "4.bias"]
    expected = nets.dense_hessian(model, batch, names)
    choices = (names, [model[2].weight, model[4].bias], lambda name, parameter: name in names)
    for chosen in choices:
        close(HessianOperator(model, nets.loss, [batch], parameters=chosen, mode=mode), expected, mode)
    # Frozen ones can be chosen, and stay frozen.
    model.requires_grad_(False)
    close(HessianOperator(model, nets.loss, [batch], parameters=["2.weight", "4.bias"], mode=mode), expected, mode)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


@EVERY_MODE
def test_a_function_of_tensors_by_name(mode):
    a, b = nets.normal(3, seed=1), nets.normal(2, seed=2)
    x = nets.normal(6, 3, seed=3)

    def energy(w, x):
        return (torch.tanh(x @ w["a"]) * w["b"].square().sum() + w["b"][0] * w["a"][1]).mean()

    def stacked(v):
        return energy({"a": v[:3], "b": v[3:]}, x)

    expected = torch.func.hessian(stacked)(torch.cat([a, b]))
    operator = HessianOperator({"a": a, "b": b}, energy, [x[:2], x[2:]], mode=mode)
    close(operator, expected, mode)
    close(HessianOperator({"a": a, "b": b}, energy, [x], parameters=["b"], mode=mode), expected[3:, 3:], mode)


@EVERY_MODE
def test_a_loss_without_curvature_is_zero(mode):
    model, x = nets.filled(nn.Linear(3, 1)), nets.normal(4, 3)
    operator = HessianOperator(model, lambda m, x: m(x).mean(), [x], mode=mode)
    assert operator.matvec(torch.ones(4, dtype=torch.float64)).abs().max() <= 1e-9
    bias = HessianOperator(model, lambda m, x: m(x).square().mean(), [x], mode=mode, parameters=["bias"])
    assert abs(float(bias.matvec(torch.ones(1, dtype=torch.float64))) - 2) <= 1e-8


def test_sums_and_leading_dimensions():
    model, batch = nets.mlp(), nets.rows()
    total = HessianOperator(
        model,
        lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="sum"),
        nets.micro(batch, 5, 6),
        reduction="sum",
    )
    mean = HessianOperator(model, nets.loss, [batch])
    v = nets.normal(2, 3, mean.shape[0])
    assert torch.allclose(total.matvec(v), 11 * mean.matvec(v), rtol=1e-12, atol=1e-12)
    assert torch.equal(mean.matvec(v)[1, 2], mean.matvec(v[1, 2]))
    assert torch.equal(mean.matvec(v.mT.contiguous().mT), mean.matvec(v))
    assert mean.matvec(v[:0]).shape == (0, 3, mean.shape[0])


@EVERY_MODE
def test_float32_products(mode):
    model, batch = nets.mlp(torch.float32), nets.rows(dtype=torch.float32)
    operator = HessianOperator(model, nets.loss, [batch], mode=mode)
    expected = nets.dense_hessian(nets.mlp().float().double(), (batch[0].double(), batch[1]))
    tolerance = 1e-2 if mode == "finite_difference" else 1e-5
    got = to_dense(operator)
    assert got.dtype == torch.float32
    assert (got - expected).norm() <= tolerance * expected.norm()


def test_a_step_makes_the_operator_stale_until_it_is_refreshed():
    model, batch = nets.mlp(), nets.rows()
    for mode in MODES:
        operator = HessianOperator(model, nets.loss, [batch], parameters=["4"], mode=mode)
        v = nets.normal(operator.shape[0])
        operator.matvec(v)
        with torch.no_grad():
            model[0].weight.add_(0.1)
        with pytest.raises(DataError, match="refresh"):
            operator.matvec(v)
        operator.refresh()
        expected = nets.dense_hessian(model, batch, ["4.weight", "4.bias"])
        assert (operator.matvec(v) - expected @ v).norm() <= TOLERANCE[mode] * (expected @ v).norm()
        model[2].weight.data = model[2].weight.data.clone()
        with pytest.raises(DataError, match="refresh"):
            operator.matvec(v)


@EVERY_MODE
def test_products_change_nothing(mode):
    model, batch = nets.mlp(), nets.rows()
    loss = nets.loss(model, batch)
    loss.backward()
    before = {name: (p.clone(), p.grad.clone()) for name, p in model.named_parameters()}
    operator = HessianOperator(model, nets.loss, [batch], mode=mode)
    state = torch.get_rng_state()
    first = operator.matvec(v := nets.normal(operator.shape[0]))
    assert torch.equal(first, operator.matvec(v))
    assert not first.requires_grad
    assert torch.equal(state, torch.get_rng_state())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert torch.equal(parameter.grad, before[name][1])


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton", "fisher"])
def test_every_solver_on_every_operator(kind):
    model, batch = nets.mlp(), nets.rows(20)
    if kind == "hessian":
        base, dense = HessianOperator(model, nets.loss, nets.micro(batch, 10, 10)), nets.dense_hessian(model, batch)
    elif kind == "fisher":
        base, dense = EmpiricalFisherOperator(model, nets.losses, [batch]), nets.dense_fisher(model, batch)
    else:
        base = GaussNewtonOperator(model, lambda m, b: m(b[0]), CrossEntropy(labels=lambda b: b[1]), [batch])
        dense = nets.dense_gauss_newton(model, batch, cross_entropy)
    damping = 0.1 + max(0.0, -float(torch.linalg.eigvalsh(dense)[0]))
    operator = DampedOperator(base, damping)
    v = nets.normal(dense.shape[0], seed=9)
    exact = torch.linalg.solve(dense + damping * torch.eye(len(dense), dtype=torch.float64), v)
    sketch = NystromPreconditioner.from_operator(operator, 8)
    for solver, preconditioner in (
        (ConjugateGradient(rtol=1e-10), None),
        (ConjugateGradient(rtol=1e-10), sketch),
        (Neumann(rtol=1e-4), None),
    ):
        solution = solver.solve(operator, v, preconditioner=preconditioner).raise_for_status()
        # The residual's share, over the smallest eigenvalue.
        assert (solution.value - exact).norm() <= solver.rtol * v.norm() / 0.1


def test_choosing_parameters():
    model = nets.mlp()
    everything = FlatParameters.of(model, None)
    v = nets.normal(everything.numel)
    parts = everything.split(v)
    assert [part.shape for part in parts] == [p.shape for p in model.parameters()]
    assert all(part.untyped_storage().data_ptr() == v.untyped_storage().data_ptr() for part in parts)
    assert torch.equal(everything.join(parts), v)
    assert list(everything.named(v)) == [name for name, _ in model.named_parameters()]
    assert FlatParameters.of(model, ["4", "0.bias"]).names == ("0.bias", "4.weight", "4.bias")
    model[0].requires_grad_(False)
    assert FlatParameters.of(model, None).names == ("2.weight", "2.bias", "4.weight", "4.bias")
    for wrong, match in (
        (["5"], "5 is no parameter"),
        ([nn.Parameter(torch.zeros(2))], r"shape \(2,\)"),
        (lambda name, parameter: False, "no parameter"),
    ):
        with pytest.raises(DataError, match=match):
            FlatParameters.of(model, wrong)
    with pytest.raises(DataError, match="no parameter"):
        FlatParameters.of(model.requires_grad_(False), None)
    with pytest.raises(DataError, match="int64"):
        FlatParameters.of({"a": torch.ones(2), "b": torch.arange(2)}, ["a", "b"])
