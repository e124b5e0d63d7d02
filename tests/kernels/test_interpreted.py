"""Every launcher in Triton's interpreter against float64 formulas: shapes around a tile, guards, layouts, values."""

from __future__ import annotations

import importlib
import math

import formulas
import kernel_cases
import pytest
import torch
from kernel_cases import GLM, LOSSES, MAKERS, assert_accurate, guard_bands, launcher

kernel_cases.require(interpreter=True)

configurations = importlib.import_module("amu_fast.kernels.configurations")
layout = importlib.import_module("amu_fast.kernels.layout")

COLUMNS = (1, 16, 17, 257, 1001)
EDGES = ("none", "one", "short", "full", "over")


def rows_around_a_tile(name, edge, d):
    kernel = name if name in GLM or name == "score_moments" else "vectors"
    width = configurations.tile_width(d, 1024)
    tile = configurations.configuration(kernel, torch.empty(0), 2048 if kernel == "vectors" else width).rows
    return {"none": 0, "one": 1, "short": tile - 1, "full": tile, "over": tile + 1}[edge]


def run(name, problem):
    return launcher(name)(*problem.arguments)


@pytest.mark.parametrize("d", COLUMNS)
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", GLM)
def test_shapes_around_a_tile(name, edge, d, monkeypatch):
    problem = MAKERS[name](rows_around_a_tile(name, edge, d), d)
    with guard_bands(monkeypatch) as stores:
        outputs = run(name, problem)
        assert stores or edge == "none"
    assert_accurate(name, outputs, problem)


@pytest.mark.parametrize("v", COLUMNS)
@pytest.mark.parametrize("edge", EDGES)
def test_vocabularies_around_a_tile(edge, v, monkeypatch):
    problem = MAKERS["score_moments"](rows_around_a_tile("score_moments", edge, v), v)
    with guard_bands(monkeypatch):
        outputs = run("score_moments", problem)
    assert_accurate("score_moments", outputs, problem)


@pytest.mark.parametrize("name", ["glm_gradient_curvature", "glm_mixed_vjp"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses(loss, intercept, name):
    problem = MAKERS[name](37, 17, loss=loss, intercept=intercept)
    assert_accurate(name, run(name, problem), problem)


@pytest.mark.parametrize("name", ["glm_hvp", "glm_hvp_multi"])
def test_without_intercept(name):
    problem = MAKERS[name](37, 17, intercept=False)
    assert_accurate(name, run(name, problem), problem)


@pytest.mark.parametrize(("k", "shared"), [(1, False), (4, True), (5, False), (16, False), (17, True), (33, False)])
@pytest.mark.parametrize("intercept", [True, False])
def test_right_hand_sides(k, shared, intercept):
    problem = MAKERS["glm_hvp_multi"](70, 35, k=k, shared=shared, intercept=intercept, batch=(2,))
    assert_accurate("glm_hvp_multi", run("glm_hvp_multi", problem), problem)


@pytest.mark.parametrize("name", GLM)
def test_rows_wider_than_a_tile(name, monkeypatch):
    problem = MAKERS[name](9, 1040 if name == "glm_hvp_multi" else 4100)
    with guard_bands(monkeypatch):
        outputs = run(name, problem)
    assert_accurate(name, outputs, problem)


def test_vocabulary_wider_than_a_tile():
    """The largest logits come first, in the middle and last: every order of merging."""
    problem = MAKERS["score_moments"](6, 9000)
    z = problem.tensors[0]
    z[0, 5] = z[1, 5000] = z[2, 8999] = 60
    z[3, :4096] = z[4, 4096:] = -math.inf
    assert_accurate("score_moments", run("score_moments", problem), problem)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [(), (0,), (2, 3)])
@pytest.mark.parametrize("name", MAKERS)
def test_outputs_look_as_the_operator_says(name, batch, dtype):
    """Shapes, dtypes and strides are those that the compiler is told beforehand."""
    import amu_fast.ops  # noqa: F401

    problem = MAKERS[name](5, 17, batch=batch)
    if name != "multi_dot":
        problem = kernel_cases.Problem((problem.tensors[0].to(dtype), *problem.tensors[1:]), problem.scalars)
    promised = kernel_cases.dispatched(name)(*problem.map(lambda t: t.to("meta")).arguments)
    outputs = kernel_cases.as_tuple(run(name, problem))
    for got, wanted in zip(outputs, kernel_cases.as_tuple(promised), strict=True):
        assert (got.shape, got.dtype, got.stride()) == (wanted.shape, wanted.dtype, wanted.stride())


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("batch", [(0,), (3,), (2, 3)])
def test_batches(name, batch):
    problem = MAKERS[name](11, 17, batch=batch)
    assert_accurate(name, run(name, problem), problem)


@pytest.mark.parametrize("name", GLM)
def test_batches_broadcast(name):
    """Every tensor with batch dimensions of its own, the rows with none."""
    shapes = ((), (2, 1), (3,), (1, 3), (2, 3))
    full = MAKERS[name](11, 17, batch=(2, 3))
    core = [t.ndim - 2 for t in full.tensors]
    parts = tuple(
        t[tuple(slice(0, 1 if size == 1 else None) for size in (1,) * (2 - len(shape)) + shape)]
        for t, shape in zip(full.tensors, shapes, strict=False)
    )
    parts = tuple(t.reshape(shape + t.shape[-c:]) for t, shape, c in zip(parts, shapes, core, strict=False))
    batch = torch.broadcast_shapes(*(t.shape[:-c] for t, c in zip(parts, core, strict=True)))
    expanded = tuple(t.expand(*batch, *t.shape[-c:]).clone() for t, c in zip(parts, core, strict=True))
    outputs = run(name, kernel_cases.Problem(parts, full.scalars))
    expected = run(name, kernel_cases.Problem(expanded, full.scalars))
    for got, wanted in zip(kernel_cases.as_tuple(outputs), kernel_cases.as_tuple(expected), strict=True):
        assert torch.equal(got, wanted)


LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT if t.ndim > 1 else t,
    "every_second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "rows_of_a_wider_matrix": lambda t: torch.cat([t, torch.full_like(t, poison(t))], -1)[..., : t.shape[-1]],
    "padded_rows": lambda t: torch.cat([t, t.new_full((*t.shape[:-1], -t.shape[-1] % 16), poison(t))], -1)[
        ..., : t.shape[-1]
    ],
    "one_row_expanded": lambda t: t[..., :1, :].expand_as(t) if t.ndim > 1 else t,
    "offset": lambda t: torch.cat([torch.full_like(t[:1], poison(t)), t])[1:],
    "unaligned": lambda t: torch.cat([t.new_full((1,), poison(t)), t.reshape(-1)])[1:].view(t.shape),
}


def poison(t):
    return math.nan if t.is_floating_point() else -7


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MAKERS)
def test_any_layout(name, layout):
    problem = MAKERS[name](19, 17, batch=(3,)).map(LAYOUTS[layout])
    if layout == "one_row_expanded" and name in ("glm_gradient_curvature", "glm_mixed_vjp"):
        problem = kernel_cases.Problem(tuple(t.clone() for t in problem.tensors), problem.scalars)
    assert_accurate(name, run(name, problem), problem)


def test_padded_rows_are_read_whole():
    """So that the device loads 128-bit words; an unpadded row ends where its columns do."""
    padded = torch.randn(5, 32)[:, :17]
    assert layout.rows(padded, torch.Size()).loaded == 32
    assert layout.rows(padded.clone(), torch.Size()).loaded == 17
    assert layout.rows(padded[1:], torch.Size()).loaded == 32
    assert layout.rows(torch.randn(5 * 32)[3:].as_strided((4, 17), (32, 1)), torch.Size()).loaded == 17
    assert layout.rows(torch.randn(4 * 32 + 17).as_strided((5, 17), (32, 1)), torch.Size()).loaded == 17


@pytest.mark.parametrize("name", MAKERS)
def test_repeats_are_bitwise_equal(name):
    problem = MAKERS[name](300, 33)
    first, second = (kernel_cases.as_tuple(run(name, problem)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", GLM)
@pytest.mark.parametrize("d", [17, 64])
def test_bfloat16_rows(name, d):
    problem = MAKERS[name](9, d)
    problem = kernel_cases.Problem((problem.tensors[0].bfloat16(), *problem.tensors[1:]), problem.scalars)
    outputs = run(name, problem)
    assert kernel_cases.as_tuple(outputs)[0].dtype == (torch.bfloat16 if name == "glm_mixed_vjp" else torch.float32)
    assert_accurate(name, outputs, problem)


def test_bfloat16_logits():
    problem = MAKERS["score_moments"](9, 100)
    problem = problem.map(lambda t: t.bfloat16() if t.is_floating_point() else t)
    assert_accurate("score_moments", run("score_moments", problem), problem)


@pytest.mark.parametrize("name", GLM)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_rows_arrive(name, bad):
    problem = MAKERS[name](40, 17)
    problem.tensors[0][39, 16] = bad
    outputs = kernel_cases.as_tuple(run(name, problem))
    exact = getattr(formulas, name)(*problem.arguments)
    assert not all(wanted.isfinite().all() for wanted in exact)
    for got, wanted in zip(outputs, exact, strict=True):
        assert torch.equal(got.isfinite(), wanted.isfinite())


@pytest.mark.parametrize("name", ["glm_hvp", "glm_hvp_multi"])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_scales(name, scale):
    """The answer is in range although squares of the scale are not."""
    problem = MAKERS[name](40, 17)
    x, c, v = problem.tensors
    problem = kernel_cases.Problem((x, c / scale, v * scale), problem.scalars)
    assert_accurate(name, run(name, problem), problem)
