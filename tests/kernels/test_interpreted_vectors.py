"""Dot products and in-place updates in Triton's interpreter against float64 arithmetic."""

from __future__ import annotations

import math

import kernel_cases
import numpy as np
import pytest
import torch
from kernel_cases import MAKERS, assert_accurate, assert_intact, guard_bands, guarded, launcher

kernel_cases.require(interpreter=True)

SIZES = (0, 1, 17, 2047, 2048, 2049)
RUNNING = torch.tensor([True, True, False])


def vectors(size, count):
    return [torch.randn(3, size) for _ in range(count)]


def in_place(tensor):
    """The tensor between guard bands, and the bands' memory."""
    inside, store = guarded(tensor.shape, tensor.dtype)
    return inside.copy_(tensor), store


def assert_rounded_once(got, exact, *terms):
    """Arithmetic in double, one rounding to float32; a double's roundings are proportional to the terms."""
    size = sum(t.double().abs() for t in terms)
    assert ((got.double() - exact).abs() <= 2.0**-24 * exact.abs() + 2.0**-50 * size + 2.0**-149).all()


def long_dot(a, b):
    """<a, b> with 64 bits of mantissa, rounded to a double."""
    a, b = (t.numpy().astype(np.longdouble) for t in (a, b))
    return torch.from_numpy((a * b).sum(-1).astype(np.float64))


def assert_summed(got, a, b):
    """Products and sums in double: less than 16 roundings of the largest partial sum at these sizes."""
    assert ((got - long_dot(a, b)).abs() <= 2.0**-49 * long_dot(a.abs(), b.abs())).all()


@pytest.mark.parametrize("size", SIZES)
def test_dot_products(size, monkeypatch):
    problem = MAKERS["multi_dot"](size, 1, batch=(3,))
    with guard_bands(monkeypatch):
        got = launcher("multi_dot")(*problem.arguments)
    assert got.dtype == torch.float64
    assert_accurate("multi_dot", got, problem)


def test_dot_products_hold_squares_of_extreme_numbers():
    a = torch.full((2, 3000), 1e30)
    assert launcher("multi_dot")(a, a).tolist() == pytest.approx([3e63] * 2, rel=1e-6)


@pytest.mark.parametrize("size", [100_000, pytest.param(6_000_001, marks=pytest.mark.slow)])
def test_dot_products_over_many_parts_are_exact(size):
    """Integers below 2^53 leave no room for rounding; the longer vector fills 1024 parts of several tiles."""
    a = torch.arange(size, dtype=torch.int32).remainder(1000).float()
    assert int(launcher("multi_dot")(a, torch.ones_like(a))) == int(a.long().sum())


@pytest.mark.parametrize("size", SIZES)
def test_direction(size):
    r, z, p = vectors(size, 3)
    rz, restart = torch.tensor([2.0, math.nan, 3.0], dtype=torch.float64), torch.tensor([False, True, False])
    p[1] = math.nan
    (new_p, store), (new_rz, rz_store), new_restart = in_place(p), in_place(rz), restart.clone()
    launcher("_cg_direction")(r, z, new_p, new_rz, new_restart, RUNNING)
    beta = new_rz[0] / 2
    assert_rounded_once(new_p[0], z[0].double() + beta * p[0].double(), z[0], beta * p[0].double())
    assert torch.equal(new_p[1:], torch.stack([z[1], p[2]]))
    assert_summed(new_rz[:2], r[:2], z[:2])
    assert new_rz[2] == 3
    assert new_restart.tolist() == [False, False, False]
    assert_intact([store, rz_store])


@pytest.mark.parametrize("size", SIZES)
def test_update(size):
    p, hp, y, r = vectors(size, 4)
    hp[0] = 2 * p[0]
    hp[1] = -p[1]
    rz = torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)
    (new_y, y_store), (new_r, r_store) = in_place(y), in_place(r)
    curvature, norms = launcher("_cg_update")(p, hp, rz, RUNNING, new_y, new_r)
    assert_summed(curvature, p, hp)
    if size:
        alpha = 3 / curvature[0]
        assert_rounded_once(new_y[0], y[0].double() + alpha * p[0].double(), y[0], alpha * p[0].double())
        assert_rounded_once(new_r[0], r[0].double() - alpha * hp[0].double(), r[0], alpha * hp[0].double())
    assert torch.equal(new_y[1:], y[1:])
    assert torch.equal(new_r[1:], r[1:])
    assert_summed(norms.square(), new_r, new_r)
    assert_intact([y_store, r_store])


@pytest.mark.parametrize("rz", [0.0, -1.0, math.nan, math.inf])
def test_update_refuses_an_unsound_step(rz):
    p, y, r = torch.randn(3, 40)
    new_y, new_r = y.clone(), r.clone()
    launcher("_cg_update")(p, p, torch.tensor(rz, dtype=torch.float64), torch.tensor(True), new_y, new_r)
    assert torch.equal(new_y, y)
    assert torch.equal(new_r, r)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_update_refuses_a_nonfinite_curvature(bad):
    p, hp, y, r = torch.randn(4, 40)
    hp[3] = bad
    new_y, new_r, one = y.clone(), r.clone(), torch.tensor(1.0, dtype=torch.float64)
    curvature, norm = launcher("_cg_update")(p, hp, one, torch.tensor(True), new_y, new_r)
    assert not curvature.isfinite()
    assert torch.equal(new_y, y)
    assert torch.equal(new_r, r)
    assert float(norm) == pytest.approx(float(r.double().norm()))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("eta", [torch.tensor([0.5, 2.0, 1.0]), torch.tensor(0.25)], ids=["each", "one"])
def test_neumann_step(size, eta):
    b, hy, y = vectors(size, 3)
    (new_y, y_store), (new_r, r_store) = in_place(y), in_place(torch.zeros(3, size))
    norms = launcher("_neumann_step")(b, hy, eta.double(), RUNNING, new_y, new_r)
    rate = eta.double().expand(3).unsqueeze(-1)
    assert torch.equal(new_r, b - hy)
    exact = y.double() + rate * new_r.double()
    assert_rounded_once(new_y[:2], exact[:2], y[:2], (rate * new_r.double())[:2])
    assert torch.equal(new_y[2], y[2])
    assert_summed(norms.square(), new_r, new_r)
    assert_intact([y_store, r_store])


STRIDED = {
    "every_second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "transposed": lambda t: t.mT.contiguous().mT if t.ndim > 1 else t.repeat_interleave(2)[::2],
    "sliced": lambda t: torch.cat([t, torch.full_like(t, 1 if t.dtype == torch.bool else math.nan)], -1)[
        ..., : t.shape[-1]
    ],
}


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("name", ["_cg_direction", "_cg_update", "_neumann_step"])
def test_strided_arguments_are_written_in_place(name, layout):
    a, b, c, d = vectors(100, 4)
    scalar, restart = torch.rand(3, dtype=torch.float64) + 1, torch.tensor([True, False, False])
    plain = {
        "_cg_direction": (a, b, c, scalar, restart, RUNNING),
        "_cg_update": (a, a.abs() + a, scalar, RUNNING, c, d),
        "_neumann_step": (a, b, scalar, RUNNING, c, d),
    }[name]
    strided = [STRIDED[layout](t.clone()) for t in plain]
    expected, got = launcher(name)(*plain), launcher(name)(*strided)
    for x, y in zip(plain, strided, strict=True):
        assert torch.equal(x, y)
    if expected is not None:
        for x, y in zip(kernel_cases.as_tuple(expected), kernel_cases.as_tuple(got), strict=True):
            assert torch.equal(x, y)


@pytest.mark.parametrize("name", ["_cg_direction", "_cg_update", "_neumann_step"])
def test_vectors_expanded_over_problems(name):
    a, b = torch.randn(40).expand(3, 40), torch.randn(40).expand(3, 40)
    c, d, ones = torch.randn(3, 40), torch.randn(3, 40), torch.ones(3, dtype=torch.float64)

    def arguments(copy, scalar, running):
        a_, b_, c_, d_ = copy(a), copy(b), c.clone(), d.clone()
        return {
            "_cg_direction": (a_, b_, c_, ones.clone(), torch.zeros(3, dtype=torch.bool), running),
            "_cg_update": (a_, b_, scalar, running, c_, d_),
            "_neumann_step": (a_, b_, scalar, running, c_, d_),
        }[name]

    expanded = arguments(lambda t: t, ones[0], torch.tensor(True))
    plain = arguments(torch.clone, ones, torch.tensor(True).repeat(3))
    launcher(name)(*expanded)
    launcher(name)(*plain)
    for x, y in zip(expanded, plain, strict=True):
        assert torch.equal(x.expand(y.shape), y)


def test_repeats_are_bitwise_equal():
    p, hp, y, r = vectors(5000, 4)
    rz = torch.ones(3, dtype=torch.float64)
    results = []
    for _ in range(2):
        new_y, new_r = y.clone(), r.clone()
        results.append((*launcher("_cg_update")(p, hp, rz, RUNNING, new_y, new_r), new_y, new_r))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
