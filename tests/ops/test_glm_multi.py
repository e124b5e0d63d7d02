"""glm_hvp_multi: C++ and reference against extended precision; its gradients are in test_glm_gradients.py."""

from __future__ import annotations

import math

import pytest
import torch
from glm_cases import (
    DTYPES,
    INTERCEPT,
    LAYOUTS,
    UNIT,
    assert_bitwise_equal_for_any_number_of_threads,
    assert_within_the_rule,
    augmented,
    extended,
    implementations,
    randoms,
)

from amu_fast.errors import DataError
from amu_fast.ops.glm import GLM_HVP
from amu_fast.ops.glm_multi import GLM_HVP_MULTI, glm_hvp_multi

IMPLEMENTATIONS = implementations(GLM_HVP_MULTI)
L2 = 0.1


def problem(n, d, k, *, batch=(), weightings=None, dtype=torch.float64, intercept=True):
    """x, c, v; c has k columns or as many as `weightings`."""
    columns = k if weightings is None else weightings
    x, c, v = randoms((*batch, n, d), (*batch, n, columns), (*batch, d + intercept, k), dtype=dtype)
    return x, c.abs() / max(n, 1), v


def assert_accurate(got, x, c, v, l2, intercept):
    reference = GLM_HVP_MULTI.reference(x, c, v, l2, intercept)
    p, x, (c, v) = v.shape[-2], augmented(x, intercept), extended(c, v)
    exact = x.swapaxes(-1, -2) @ (c * (x @ v)) + l2 * v
    terms = abs(x).swapaxes(-1, -2) @ (abs(c) * (abs(x) @ abs(v))) + abs(l2 * v)
    assert_within_the_rule(got, reference, exact, terms, p)


@DTYPES
@INTERCEPT
@pytest.mark.parametrize("shared", [True, False], ids=["one_weighting", "k_weightings"])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 8, 11, 16, 40])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (17, 63), (63, 17), (300, 7), (70, 1000)])
def test_matches_the_oracle(n, d, k, shared, dtype, intercept):
    x, c, v = problem(n, d, k, weightings=1 if shared else k, dtype=dtype, intercept=intercept)
    assert_accurate(GLM_HVP_MULTI.bare(x, c, v, L2, intercept), x, c, v, L2, intercept)


@IMPLEMENTATIONS
@DTYPES
def test_every_column_is_a_product_of_its_own(run, dtype):
    x, c, v = problem(50, 9, 6, batch=(2,), dtype=dtype)
    got = run(x, c, v, L2, True)
    for j in range(6):
        single = GLM_HVP.bare(x, c[..., j].contiguous(), v[..., j].contiguous(), L2, True)
        torch.testing.assert_close(got[..., j], single)


@DTYPES
@pytest.mark.parametrize("batch", [(0,), (1,), (3,), (2, 3)])
@pytest.mark.parametrize(("n", "d"), [(17, 63), (63, 1), (1, 17)])
def test_batches(n, d, batch, dtype):
    x, c, v = problem(n, d, 5, batch=batch, dtype=dtype)
    assert_accurate(GLM_HVP_MULTI.bare(x, c, v, L2, True), x, c, v, L2, True)


@IMPLEMENTATIONS
@pytest.mark.parametrize(
    ("x_batch", "c_batch", "v_batch"),
    [((), (), (4,)), ((3,), (), ()), ((1, 3), (2, 1), (3,)), ((3,), (3,), (5, 3)), ((), (2,), ())],
)
def test_batch_dimensions_broadcast(run, x_batch, c_batch, v_batch):
    x, c, v = (problem(17, 5, 3, batch=b)[i] for i, b in enumerate((x_batch, c_batch, v_batch)))
    batch = torch.broadcast_shapes(x_batch, c_batch, v_batch)
    full = (x.expand(*batch, 17, 5).clone(), c.expand(*batch, 17, 3).clone(), v.expand(*batch, 6, 3).clone())
    y = run(x, c, v, L2, True)
    assert y.is_contiguous()
    torch.testing.assert_close(y, GLM_HVP_MULTI.reference(*full, L2, True), rtol=1e-13, atol=1e-14)


@IMPLEMENTATIONS
@DTYPES
def test_empty_sizes(run, dtype):
    x, c, v = problem(0, 5, 3, batch=(2,), dtype=dtype)
    assert torch.equal(run(x, c, v, 0.5, True), 0.5 * v)
    x, c, v = problem(4, 0, 3, dtype=dtype)
    torch.testing.assert_close(run(x, c, v, 0.5, True), c.sum(0) * v + 0.5 * v)
    assert run(x, c, v[:0], 0.5, False).shape == (0, 3)
    x, c, v = problem(4, 5, 0, dtype=dtype)
    assert run(x, c, v, 0.5, True).shape == (6, 0)


@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout, dtype):
    x, c, v = (LAYOUTS[layout](t) for t in problem(63, 17, 5, batch=(3,), dtype=dtype))
    assert_accurate(GLM_HVP_MULTI.bare(x, c, v, L2, True), x, c, v, L2, True)


@DTYPES
def test_a_weighting_expanded_over_the_columns(dtype):
    x, c, v = problem(63, 17, 5, weightings=1, dtype=dtype)
    assert_accurate(GLM_HVP_MULTI.bare(x, c.expand(63, 5), v, L2, True), x, c, v, L2, True)


@DTYPES
@pytest.mark.parametrize(
    ("n", "d", "k", "batch"),
    [(1000, 300, 4, ()), (5000, 17, 16, (3,)), (150, 5000, 3, ()), (140, 11, 20, (30,))],
)
def test_bitwise_equal_for_any_number_of_threads(n, d, k, batch, dtype):
    x, c, v = problem(n, d, k, batch=batch, dtype=dtype)
    assert_bitwise_equal_for_any_number_of_threads(lambda: GLM_HVP_MULTI.bare(x, c, v, L2, True))


@DTYPES
def test_long_sums_do_not_drift(dtype):
    """Rows are summed in the element's precision within a tile only."""
    x, c, v = problem(100_000, 3, 2, dtype=dtype)
    x, c, v = x.abs(), torch.ones_like(c), v.abs()
    rows, (c_exact, v_exact) = augmented(x, True), extended(c, v)
    exact = rows.T @ (c_exact * (rows @ v_exact))
    got = GLM_HVP_MULTI.bare(x, c, v, 0.0, True)
    assert float((abs(got.numpy() - exact) / exact).max()) <= 16 * UNIT[dtype]


@IMPLEMENTATIONS
@DTYPES
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_values_arrive(run, bad, dtype):
    x, c, v = problem(70, 40, 3, dtype=dtype)
    x[69, 39] = bad
    assert not run(x, c, v, L2, True)[39].isfinite().any()
    c[3, 1], x[69, 39] = math.nan, 0
    y = run(x, c, v, L2, True)
    assert y[:, 1].isnan().all()
    assert y[:, [0, 2]].isfinite().all()
    c[3, 1], v[2, 2] = 0, math.nan
    assert run(x, c, v, L2, True)[:, 2].isnan().all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales(scale):
    x, c, v = problem(63, 17, 3)
    assert_accurate(GLM_HVP_MULTI.bare(x, c * scale, v, scale, True), x, c * scale, v, scale, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, c, v: (x[0], c, v, L2, True), "2, 2, 2 dimensions"),
        (lambda x, c, v: (x, c[1:], v, L2, True), "c needs one entry per row"),
        (lambda x, c, v: (x, c[:, :2], v, L2, True), "one column or as many as v"),
        (lambda x, c, v: (x, c, v, L2, False), "v needs one entry per column"),
        (lambda x, c, v: (x, c.float(), v, L2, True), "float32"),
        (lambda x, c, v: (x, c, v, -1.0, True), "-1.0"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(DataError, match=message):
        glm_hvp_multi(*change(*problem(5, 3, 4)))


def test_autocast_does_not_reach_inside():
    x, c, v = problem(17, 5, 3, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, reference = glm_hvp_multi(x, c, v, L2, True), GLM_HVP_MULTI.reference(x, c, v, L2, True)
    assert torch.equal(inside, glm_hvp_multi(x, c, v, L2, True))
    assert torch.equal(reference, GLM_HVP_MULTI.reference(x, c, v, L2, True))


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize("n", [0, 1, 63, 1000])
@pytest.mark.parametrize("k", [1, 5, 16])
def test_on_a_cuda_device(n, k, dtype):
    x, c, v = problem(n, 257, k, batch=(3,), dtype=dtype)
    got = GLM_HVP_MULTI.bare(x.cuda(), c.cuda(), v.cuda(), L2, True)
    assert got.device.type == "cuda"
    assert_accurate(got.cpu(), x, c, v, L2, True)
