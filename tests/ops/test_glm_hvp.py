"""glm_hvp: C++ and reference against a float64 oracle (float64 itself against exact sums), and its gradients."""

from __future__ import annotations

import math

import pytest
import torch
from glm_cases import (
    DTYPES,
    INTERCEPT,
    LAYOUTS,
    SIZES,
    UNIT,
    assert_bitwise_equal_for_any_number_of_threads,
    assert_within_the_rule,
    augmented,
    extended,
    implementations,
    times,
    transposed_times,
)

from amu_fast.errors import DataError
from amu_fast.ops.glm import GLM_HVP, glm_hvp

IMPLEMENTATIONS = implementations(GLM_HVP)


def problem(n, d, *, batch=(), dtype=torch.float64, intercept=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch, n, d, generator=g, dtype=torch.float64).to(dtype)
    c = torch.rand(*batch, n, generator=g, dtype=torch.float64).to(dtype) / max(n, 1)
    v = torch.randn(*batch, d + intercept, generator=g, dtype=torch.float64).to(dtype)
    return x, c, v


def oracle(x, c, v, l2, intercept):
    """y and the sums of its terms' magnitudes, in extended precision."""
    x, (c, v) = augmented(x, intercept), extended(c, v)
    y = transposed_times(x, c * times(x, v)) + l2 * v
    return y, transposed_times(abs(x), abs(c) * times(abs(x), abs(v))) + abs(l2 * v)


def assert_accurate(got, x, c, v, l2, intercept):
    reference = GLM_HVP.reference(x, c, v, l2, intercept)
    assert_within_the_rule(got, reference, *oracle(x, c, v, l2, intercept), v.shape[-1])


@DTYPES
@INTERCEPT
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("d", SIZES)
def test_matches_the_oracle(n, d, dtype, intercept):
    x, c, v = problem(n, d, dtype=dtype, intercept=intercept)
    assert_accurate(GLM_HVP.bare(x, c, v, 0.1, intercept), x, c, v, 0.1, intercept)


@DTYPES
@pytest.mark.parametrize("batch", [(0,), (1,), (3,), (2, 3)])
@pytest.mark.parametrize(("n", "d"), [(17, 63), (63, 1), (1, 17)])
def test_batches(n, d, batch, dtype):
    x, c, v = problem(n, d, batch=batch, dtype=dtype)
    assert_accurate(GLM_HVP.bare(x, c, v, 0.1, True), x, c, v, 0.1, True)


@IMPLEMENTATIONS
@pytest.mark.parametrize(
    ("x_batch", "c_batch", "v_batch"),
    [((), (), (4,)), ((3,), (), ()), ((1, 3), (2, 1), (3,)), ((3,), (3,), (5, 3)), ((), (2,), ())],
)
def test_batch_dimensions_broadcast(run, x_batch, c_batch, v_batch):
    x, c, v = problem(17, 5, batch=x_batch)[0], problem(17, 5, batch=c_batch)[1], problem(17, 5, batch=v_batch)[2]
    batch = torch.broadcast_shapes(x_batch, c_batch, v_batch)
    full = (x.expand(*batch, 17, 5).clone(), c.expand(*batch, 17).clone(), v.expand(*batch, 6).clone())
    y = run(x, c, v, 0.1, True)
    assert y.is_contiguous()
    torch.testing.assert_close(y, GLM_HVP.reference(*full, 0.1, True), rtol=1e-13, atol=1e-14)


@IMPLEMENTATIONS
@DTYPES
def test_no_rows_leave_the_damping(run, dtype):
    x, c, v = problem(0, 5, batch=(3,), dtype=dtype)
    assert torch.equal(run(x, c, v, 0.5, True), 0.5 * v)


@IMPLEMENTATIONS
def test_no_columns_leave_the_intercept(run):
    x, c, v = problem(4, 0)
    torch.testing.assert_close(run(x, c, v, 0.5, True), c.sum() * v + 0.5 * v)
    assert run(x, c, v[:0], 0.5, False).shape == (0,)


@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout, dtype):
    x, c, v = (LAYOUTS[layout](t) for t in problem(63, 17, batch=(3,), dtype=dtype))
    assert_accurate(GLM_HVP.bare(x, c, v, 0.1, True), x, c, v, 0.1, True)


@DTYPES
@pytest.mark.parametrize(("n", "d", "batch"), [(1000, 1000, ()), (5000, 17, (3,)), (3, 70000, ()), (140, 11, (30,))])
def test_bitwise_equal_for_any_number_of_threads(n, d, batch, dtype):
    x, c, v = problem(n, d, batch=batch, dtype=dtype)
    assert_bitwise_equal_for_any_number_of_threads(lambda: GLM_HVP.bare(x, c, v, 0.1, True))


@DTYPES
def test_long_sums_do_not_drift(dtype):
    """Rows are summed in the element's precision within a tile only."""
    x, c, v = problem(200_000, 3, dtype=dtype)
    x, c = x.abs(), torch.ones_like(c)
    exact, _ = oracle(x, c, v.abs(), 0.0, True)
    got = GLM_HVP.bare(x, c, v.abs(), 0.0, True)
    assert float((abs(got.numpy() - exact) / exact).max()) <= 16 * UNIT[dtype]


@IMPLEMENTATIONS
@DTYPES
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_values_arrive(run, bad, dtype):
    x, c, v = problem(70, 40, dtype=dtype)
    x[69, 39] = bad
    y = run(x, c, v, 0.1, True)
    assert not y.isfinite()[39]
    c[3], x[69, 39] = math.nan, 0
    assert run(x, c, v, 0.1, True).isnan().all()
    c[3], v[2] = 0, math.nan
    assert run(x, c, v, 0.1, True).isnan().all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales(scale):
    x, c, v = problem(63, 17)
    assert_accurate(GLM_HVP.bare(x, c * scale, v, scale, True), x, c * scale, v, scale, True)


def test_a_second_right_hand_side_per_row_of_x():
    """Extra leading dimensions of v are right-hand sides of one x: a Hessian's columns."""
    x, c, _ = problem(17, 5)
    hessian = GLM_HVP.bare(x, c, torch.eye(6, dtype=torch.float64), 0.1, True)
    ones = torch.cat([x, torch.ones(17, 1, dtype=torch.float64)], 1)
    torch.testing.assert_close(hessian, ones.T @ (c[:, None] * ones) + 0.1 * torch.eye(6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, c, v: (x[0], c, v, 0.1, True), "2, 1, 1 dimensions"),
        (lambda x, c, v: (x, c[1:], v, 0.1, True), "one entry per row"),
        (lambda x, c, v: (x, c, v, 0.1, False), "one entry per column"),
        (lambda x, c, v: (x, c.float(), v, 0.1, True), "float32"),
        (lambda x, c, v: (x.half(), c.half(), v.half(), 0.1, True), "float16"),
        (lambda x, c, v: (x, c, v, -1.0, True), "-1.0"),
        (lambda x, c, v: (x, c, v, math.nan, True), "nan"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(DataError, match=message):
        glm_hvp(*change(*problem(5, 3)))


@pytest.mark.parametrize("l2", [0.1, 0])
def test_autocast_does_not_reach_inside(l2):
    x, c, v = problem(17, 5, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = glm_hvp(x, c, v, l2, True)
        reference = GLM_HVP.reference(x, c, v, l2, True)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, glm_hvp(x, c, v, l2, True))
    assert torch.equal(reference, GLM_HVP.reference(x, c, v, l2, True))


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize("n", [0, 1, 63, 1000])
def test_on_a_cuda_device(n, dtype):
    x, c, v = problem(n, 257, batch=(3,), dtype=dtype)
    got = GLM_HVP.bare(x.cuda(), c.cuda(), v.cuda(), 0.1, True)
    assert got.device.type == "cuda"
    assert_accurate(got.cpu(), x, c, v, 0.1, True)
