"""glm_gradient_curvature: C++ and reference against extended precision; its gradients: test_glm_gradients.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from glm_cases import (
    DTYPES,
    INTERCEPT,
    L2,
    LAYOUTS,
    LOSSES,
    ROW_ROUNDINGS,
    SIZES,
    UNIT,
    WIDTH,
    assert_bitwise_equal_for_any_number_of_threads,
    assert_within_the_rule,
    augmented,
    exact_losses,
    extended,
    follower_problem,
    implementations,
    margins,
    randoms,
    times,
    transposed_times,
)

from amu_fast.errors import DataError
from amu_fast.ops import losses
from amu_fast.ops.glm_curvature import GLM_GRADIENT_CURVATURE, glm_gradient_curvature

IMPLEMENTATIONS = implementations(GLM_GRADIENT_CURVATURE)


def oracle(x, y, t, w, loss, l2, intercept):
    """The four outputs, and for each the sum of its terms' magnitudes, with those of the margins they depend on."""
    value, slope, bend, third = exact_losses(loss, margins(x, y, w, intercept))
    x, (y, t, w) = augmented(x, intercept), extended(y, t, w)
    size = times(abs(x), abs(w))
    c_terms = t * (bend + abs(third) * size)
    norm = (w**2).sum(-1)
    exact = (
        (t * value).sum(-1) + l2 / np.longdouble(2) * norm,
        transposed_times(x, t * y * slope) + l2 * w,
        t * bend,
        transposed_times(x**2, t * bend) + l2,
    )
    terms = (
        (t * (value + abs(slope) * size)).sum(-1) + l2 / 2 * norm,
        transposed_times(abs(x), t * (abs(slope) + bend * size)) + abs(l2 * w),
        c_terms,
        transposed_times(x**2, c_terms) + l2,
    )
    return exact, terms


def assert_accurate(got, x, y, t, w, loss, l2, intercept):
    reference = GLM_GRADIENT_CURVATURE.reference(x, y, t, w, loss, l2, WIDTH, intercept)
    for outputs in zip(got, reference, *oracle(x, y, t, w, loss, l2, intercept), strict=True):
        assert_within_the_rule(*outputs, w.shape[-1] + ROW_ROUNDINGS)


@DTYPES
@INTERCEPT
@LOSSES
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("d", [1, 11, 63, 1000])
def test_matches_the_oracle(n, d, loss, dtype, intercept):
    x, y, t, w, _ = follower_problem(n, d, dtype=dtype, intercept=intercept)
    got = GLM_GRADIENT_CURVATURE.bare(x, y, t, w, loss, L2, WIDTH, intercept)
    assert_accurate(got, x, y, t, w, loss, L2, intercept)


@LOSSES
@pytest.mark.parametrize(
    "m", [0.0, 0.5, 1.0, -1e-9, 30.0, -30.0, 700.0, -700.0, 744.0, 746.0, -1e5, math.inf, -math.inf]
)
def test_losses_at_all_margins(m, loss):
    """One row, x = m, w = y = t = 1; at the kinks 0.5 and 1 the curvature is 0."""
    one = torch.ones(1, dtype=torch.float64)
    x = torch.full((1, 1), m, dtype=torch.float64)
    objective, _, c, _ = GLM_GRADIENT_CURVATURE.bare(x, one, one, one, loss, 0.0, WIDTH, False)
    value, _, bend, _ = exact_losses(loss, np.full(1, m, dtype=np.longdouble))
    tiny = 2 * np.finfo(np.float64).smallest_subnormal
    np.testing.assert_allclose(objective.numpy(), value[0].astype(float), rtol=4 * UNIT[torch.float64], atol=tiny)
    np.testing.assert_allclose(c.numpy(), bend.astype(float), rtol=8 * UNIT[torch.float64], atol=tiny)


@DTYPES
@pytest.mark.parametrize("batch", [(0,), (1,), (3,), (2, 3)])
def test_batches(batch, dtype):
    x, y, t, w, _ = follower_problem(17, 33, batch=batch, dtype=dtype)
    got = GLM_GRADIENT_CURVATURE.bare(x, y, t, w, losses.LOGISTIC, L2, WIDTH, True)
    assert_accurate(got, x, y, t, w, losses.LOGISTIC, L2, True)


@IMPLEMENTATIONS
@pytest.mark.parametrize(
    "batches", [((), (), (), (4,)), ((3,), (), (), ()), ((1, 3), (2, 1), (3,), ()), ((), (), (5, 3), (3,))]
)
def test_batch_dimensions_broadcast(run, batches):
    tensors = [follower_problem(17, 5, batch=b)[i] for i, b in enumerate(batches)]
    batch = torch.broadcast_shapes(*batches)
    cores = [(17, 5), (17,), (17,), (6,)]
    full = [t.expand(*batch, *core).clone() for t, core in zip(tensors, cores, strict=True)]
    got = run(*tensors, losses.LOGISTIC, L2, WIDTH, True)
    assert all(out.is_contiguous() for out in got)
    expected = GLM_GRADIENT_CURVATURE.reference(*full, losses.LOGISTIC, L2, WIDTH, True)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-14)


@IMPLEMENTATIONS
@DTYPES
def test_empty_sizes(run, dtype):
    x, y, t, w, _ = follower_problem(0, 5, batch=(2,), dtype=dtype)
    objective, gradient, c, diagonal = run(x, y, t, w, losses.LOGISTIC, 0.5, WIDTH, True)
    torch.testing.assert_close(objective, 0.25 * w.square().sum(-1))
    torch.testing.assert_close(gradient, 0.5 * w)
    assert c.shape == (2, 0)
    assert torch.equal(diagonal, torch.full_like(w, 0.5))
    x, y, t, w, _ = follower_problem(4, 0, dtype=dtype)
    assert_accurate(run(x, y, t, w, losses.LOGISTIC, L2, WIDTH, True), x, y, t, w, losses.LOGISTIC, L2, True)
    objective, gradient, _, diagonal = run(x, y, t, w[:0], losses.SQUARED_HINGE, L2, WIDTH, False)
    torch.testing.assert_close(objective, t.sum())
    assert gradient.shape == diagonal.shape == (0,)


@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout, dtype):
    x, y, t, w, _ = (LAYOUTS[layout](a) for a in follower_problem(63, 17, batch=(3,), dtype=dtype))
    got = GLM_GRADIENT_CURVATURE.bare(x, y, t, w, losses.LOGISTIC, L2, WIDTH, True)
    assert_accurate(got, x, y, t, w, losses.LOGISTIC, L2, True)


@DTYPES
@LOSSES
@pytest.mark.parametrize(("n", "d", "batch"), [(1000, 300, ()), (5003, 17, (3,)), (3, 70000, ()), (140, 11, (30,))])
def test_bitwise_equal_for_any_number_of_threads(n, d, batch, loss, dtype):
    x, y, t, w, _ = follower_problem(n, d, batch=batch, dtype=dtype)
    assert_bitwise_equal_for_any_number_of_threads(
        lambda: GLM_GRADIENT_CURVATURE.bare(x, y, t, w, loss, L2, WIDTH, True)
    )


@DTYPES
def test_long_sums_do_not_drift(dtype):
    """Rows are summed in the element's precision within a tile only."""
    x, t = (a.abs() for a in randoms((100_000, 3), (100_000,), dtype=dtype))
    y, w = torch.ones_like(t), torch.full((3,), -0.5, dtype=dtype)
    got = GLM_GRADIENT_CURVATURE.bare(x, y, t, w, losses.LOGISTIC, 0.0, WIDTH, False)
    exact, _ = oracle(x, y, t, w, losses.LOGISTIC, 0.0, False)
    for i in (0, 1, 3):
        assert float((abs(got[i].numpy() - exact[i]) / abs(exact[i])).max()) <= 16 * UNIT[dtype]


@IMPLEMENTATIONS
@DTYPES
@LOSSES
@pytest.mark.parametrize("where", ["x", "t", "w"])
def test_nonfinite_values_arrive(run, where, loss, dtype):
    x, y, t, w, _ = follower_problem(70, 40, dtype=dtype)
    {"x": x[69], "t": t, "w": w}[where][39] = math.nan
    objective, gradient, _, _ = run(x, y, t, w, loss, L2, WIDTH, True)
    assert objective.isnan()
    assert gradient.isnan().all()


@LOSSES
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales(scale, loss):
    x, y, t, w, _ = follower_problem(63, 17, scale=scale)
    got = GLM_GRADIENT_CURVATURE.bare(x, y, t, w, loss, scale, WIDTH, True)
    assert_accurate(got, x, y, t, w, loss, scale, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, t, w: (x[0], y, t, w, 0, L2, WIDTH, True), "2, 1, 1, 1 dimensions"),
        (lambda x, y, t, w: (x, y, t[1:], w, 0, L2, WIDTH, True), "t needs one entry per row"),
        (lambda x, y, t, w: (x, y, t, w, 0, L2, WIDTH, False), "w needs one entry per column"),
        (lambda x, y, t, w: (x, y.long(), t, w, 0, L2, WIDTH, True), "int64"),
        (lambda x, y, t, w: (x, y, t, w, 3, L2, WIDTH, True), "loss must be .*, got 3"),
        (lambda x, y, t, w: (x, y, t, w, 2, L2, 0.0, True), "width must be > 0, got 0.0"),
        (lambda x, y, t, w: (x, y, t, w, 0, -1.0, WIDTH, True), "-1.0"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(DataError, match=message):
        glm_gradient_curvature(*change(*follower_problem(5, 3)[:4]))


@pytest.mark.gpu
@DTYPES
@LOSSES
@pytest.mark.parametrize("n", [0, 1, 63, 1000])
def test_on_a_cuda_device(n, loss, dtype):
    x, y, t, w, _ = follower_problem(n, 257, batch=(3,), dtype=dtype)
    got = GLM_GRADIENT_CURVATURE.bare(x.cuda(), y.cuda(), t.cuda(), w.cuda(), loss, L2, WIDTH, True)
    assert all(out.device.type == "cuda" for out in got)
    assert_accurate([out.cpu() for out in got], x, y, t, w, loss, L2, True)
