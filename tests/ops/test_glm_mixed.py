"""glm_mixed_vjp: C++ and reference against extended precision; its gradients are in test_glm_gradients.py."""

from __future__ import annotations

import math

import pytest
import torch
from glm_cases import (
    DTYPES,
    INTERCEPT,
    LAYOUTS,
    LOSSES,
    ROW_ROUNDINGS,
    SIZES,
    WIDTH,
    assert_bitwise_equal_for_any_number_of_threads,
    assert_within_the_rule,
    augmented,
    exact_losses,
    extended,
    follower_problem,
    implementations,
    margins,
    times,
)

from amu_fast.errors import DataError
from amu_fast.ops import losses
from amu_fast.ops.glm_mixed import GLM_MIXED_VJP, glm_mixed_vjp

IMPLEMENTATIONS = implementations(GLM_MIXED_VJP)


def assert_accurate(got, x, y, t, w, u, loss, intercept):
    reference = GLM_MIXED_VJP.reference(x, y, t, w, u, loss, WIDTH, intercept)
    _, slope, bend, third = exact_losses(loss, margins(x, y, w, intercept))
    d, p, x, (y, t, w, u) = x.shape[-1], w.shape[-1], augmented(x, intercept), extended(y, t, w, u)
    s, sizes = times(x, u), [times(abs(x), abs(v)) for v in (w, u)]
    rows = (t * y * slope)[..., None] * u[..., None, :d] + (t * bend * s)[..., None] * w[..., None, :d]
    along_u = t * (abs(slope) + bend * sizes[0])
    along_w = t * (bend + abs(third) * sizes[0]) * sizes[1]
    terms = along_u[..., None] * abs(u)[..., None, :d] + along_w[..., None] * abs(w)[..., None, :d]
    assert_within_the_rule(got, reference, -rows, terms, p + ROW_ROUNDINGS)


@DTYPES
@INTERCEPT
@LOSSES
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("d", [1, 11, 63, 1000])
def test_matches_the_oracle(n, d, loss, dtype, intercept):
    problem = follower_problem(n, d, dtype=dtype, intercept=intercept)
    got = GLM_MIXED_VJP.bare(*problem, loss, WIDTH, intercept)
    assert_accurate(got, *problem, loss, intercept)


@DTYPES
@pytest.mark.parametrize("batch", [(0,), (1,), (3,), (2, 3)])
def test_batches(batch, dtype):
    problem = follower_problem(17, 33, batch=batch, dtype=dtype)
    assert_accurate(GLM_MIXED_VJP.bare(*problem, 0, WIDTH, True), *problem, 0, True)


@IMPLEMENTATIONS
@pytest.mark.parametrize(
    "batches", [((), (), (), (4,), ()), ((3,), (), (), (), (2, 1)), ((1, 3), (2, 1), (3,), (), ()), ((),) * 4 + ((5,),)]
)
def test_batch_dimensions_broadcast(run, batches):
    tensors = [follower_problem(17, 5, batch=b)[i] for i, b in enumerate(batches)]
    batch = torch.broadcast_shapes(*batches)
    cores = [(17, 5), (17,), (17,), (6,), (6,)]
    full = [t.expand(*batch, *core).clone() for t, core in zip(tensors, cores, strict=True)]
    got = run(*tensors, losses.LOGISTIC, WIDTH, True)
    assert got.is_contiguous()
    expected = GLM_MIXED_VJP.reference(*full, losses.LOGISTIC, WIDTH, True)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-14)


@IMPLEMENTATIONS
@DTYPES
@pytest.mark.parametrize(("n", "d"), [(0, 5), (4, 0)])
def test_empty_sizes(run, n, d, dtype):
    assert run(*follower_problem(n, d, batch=(2,), dtype=dtype), 0, WIDTH, True).shape == (2, n, d)


@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout, dtype):
    problem = tuple(LAYOUTS[layout](a) for a in follower_problem(63, 17, batch=(3,), dtype=dtype))
    assert_accurate(GLM_MIXED_VJP.bare(*problem, 0, WIDTH, True), *problem, 0, True)


@DTYPES
@LOSSES
@pytest.mark.parametrize(("n", "d", "batch"), [(1000, 300, ()), (5003, 17, (3,)), (3, 70000, ()), (140, 11, (30,))])
def test_bitwise_equal_for_any_number_of_threads(n, d, batch, loss, dtype):
    problem = follower_problem(n, d, batch=batch, dtype=dtype)
    assert_bitwise_equal_for_any_number_of_threads(lambda: GLM_MIXED_VJP.bare(*problem, loss, WIDTH, True))


@IMPLEMENTATIONS
@DTYPES
@LOSSES
def test_nonfinite_values_arrive(run, loss, dtype):
    x, y, t, w, u = follower_problem(70, 40, dtype=dtype)
    x[69, 39], t[3] = math.nan, math.nan
    rows = run(x, y, t, w, u, loss, WIDTH, True)
    assert rows[[3, 69]].isnan().all()
    assert rows[:3].isfinite().all()
    u[2] = math.inf
    assert not run(x, y, t, w, u, loss, WIDTH, True)[:, 2].isfinite().any()


@LOSSES
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales(scale, loss):
    problem = follower_problem(63, 17, scale=scale)
    assert_accurate(GLM_MIXED_VJP.bare(*problem, loss, WIDTH, True), *problem, loss, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, t, w, u: (x[0], y, t, w, u, 0, WIDTH, True), "2, 1, 1, 1, 1 dimensions"),
        (lambda x, y, t, w, u: (x, y[1:], t, w, u, 0, WIDTH, True), "y needs one entry per row"),
        (lambda x, y, t, w, u: (x, y, t, w, u[1:], 0, WIDTH, True), "u needs one entry per column"),
        (lambda x, y, t, w, u: (x, y, t, w, u.float(), 0, WIDTH, True), "float32"),
        (lambda x, y, t, w, u: (x, y, t, w, u, -1, WIDTH, True), "loss must be .*, got -1"),
        (lambda x, y, t, w, u: (x, y, t, w, u, 2, -0.5, True), "width must be > 0, got -0.5"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(DataError, match=message):
        glm_mixed_vjp(*change(*follower_problem(5, 3)))


@pytest.mark.gpu
@DTYPES
@LOSSES
@pytest.mark.parametrize("n", [0, 1, 63, 1000])
def test_on_a_cuda_device(n, loss, dtype):
    problem = follower_problem(n, 257, batch=(3,), dtype=dtype)
    got = GLM_MIXED_VJP.bare(*(a.cuda() for a in problem), loss, WIDTH, True)
    assert got.device.type == "cuda"
    assert_accurate(got.cpu(), *problem, loss, True)
