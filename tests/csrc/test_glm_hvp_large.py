"""The product of wide rows: the CUDA launcher and kernels, emulated, against a float64 oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

DEVICES = pytest.mark.parametrize("device", ["H200", "A100", "SMALL"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=["f32", "bf16", "f64"])
UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def problem(n, d, *, batch=(), dtype=torch.float32, intercept=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    other = torch.float64 if dtype == torch.float64 else torch.float32
    x = torch.randn(*batch, n, d, generator=g, dtype=torch.float64).to(dtype)
    c = torch.rand(*batch, n, generator=g, dtype=torch.float64).to(other) / max(n, 1)
    v = torch.randn(*batch, d + intercept, generator=g, dtype=torch.float64).to(other)
    return x, c, v


def product(x, c, v, l2, intercept):
    """In the type of c and v, two products: the same-precision reference."""
    x = x.to(v.dtype)
    z = (x @ v[..., : x.shape[-1], None])[..., 0] + (v[..., -1:] if intercept else 0)
    y = (x.mT @ (c * z)[..., None])[..., 0]
    return (torch.cat([y, (c * z).sum(-1, keepdim=True)], -1) if intercept else y) + l2 * v


def assert_accurate(got, x, c, v, l2, intercept):
    """The tolerance rule: error <= 2 max(the same-precision reference's, p u sum|terms|)."""
    wide = [t.double().numpy().astype(np.longdouble) for t in (x, c, v)]
    if intercept:
        wide[0] = np.concatenate([wide[0], np.ones((*x.shape[:-1], 1), dtype=np.longdouble)], -1)
    rows, weights, vector = wide
    z, size = np.einsum("...ij,...j->...i", rows, vector), np.einsum("...ij,...j->...i", abs(rows), abs(vector))
    exact = np.einsum("...ij,...i->...j", rows, weights * z) + np.longdouble(l2) * vector
    terms = np.einsum("...ij,...i->...j", abs(rows), abs(weights) * size) + abs(l2 * vector)
    reference = abs(product(x, c, v, l2, intercept).numpy() - exact)
    error = abs(got.numpy() - exact)
    assert got.dtype == v.dtype
    assert got.shape == exact.shape
    assert (error <= 2 * np.maximum(reference, v.shape[-1] * UNIT[v.dtype] * terms)).all(), float(error.max())


# One block of 16 and of 32 columns a thread, clusters of 2 and of 3, ragged ends, narrow and empty matrices; with
# clusters or without, and in chunks where a device or an alignment knows no other way.
SHAPES = [(0, 40), (1, 1), (5, 0), (300, 17), (9, 4104), (5, 8200), (3, 16400), (2, 33000), (11, 5001)]


@DEVICES
@DTYPES
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_matches_the_oracle(emulator, n, d, dtype, device):
    emulator.device(*getattr(emulator, device))
    x, c, v = problem(n, d, dtype=dtype)
    assert_accurate(emulator.ops.glm_hvp_large(x, c, v, 0.1, True), x, c, v, 0.1, True)
    x, c, v = problem(n, d, dtype=dtype, intercept=False)
    assert_accurate(emulator.ops.glm_hvp_large(x, c, v, 0.1, False), x, c, v, 0.1, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 31])
def test_every_count_of_rows_against_the_stages(emulator, n, dtype):
    emulator.device(*emulator.H200)
    x, c, v = problem(n, 600, dtype=dtype)
    assert_accurate(emulator.ops.glm_hvp_large(x, c, v, 0.1, True), x, c, v, 0.1, True)


def test_many_tiles(emulator):
    """A cluster's rows are cut into tiles, and every tile has its line."""
    emulator.device(2, 232448, True)
    x, c, v = problem(1100, 16)
    assert_accurate(emulator.ops.glm_hvp_large(x, c, v, 0.1, True), x, c, v, 0.1, True)


@pytest.mark.parametrize(("x_batch", "c_batch", "v_batch"), [((3,), (), ()), ((1, 3), (2, 1), (3,)), ((), (2,), ())])
def test_batch_dimensions_broadcast(emulator, x_batch, c_batch, v_batch):
    emulator.device(*emulator.H200)
    x, c, v = problem(5, 64, batch=x_batch)[0], problem(5, 64, batch=c_batch)[1], problem(5, 64, batch=v_batch)[2]
    batch = torch.broadcast_shapes(x_batch, c_batch, v_batch)
    full = x.expand(*batch, 5, 64), c.expand(*batch, 5), v.expand(*batch, 65)
    assert_accurate(emulator.ops.glm_hvp_large(x, c, v, 0.1, True), *full, 0.1, True)


def test_empty_batch(emulator):
    assert emulator.ops.glm_hvp_large(*problem(5, 64, batch=(0,)), 0.1, True).shape == (0, 65)


LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT if t.ndim > 1 else t,
    "every_second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "rows_of_a_wider_matrix": lambda t: torch.cat([t, torch.full_like(t, math.nan)], -1)[..., : t.shape[-1]],
    "expanded": lambda t: t[:1].expand_as(t),
    "offset": lambda t: torch.cat([torch.full_like(t[:1], math.nan), t])[1:],
    "unaligned": lambda t: torch.cat([torch.full_like(t[..., :1], math.nan), t], -1)[..., 1:],
}


@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("d", [63, 64])
def test_any_layout(emulator, layout, d, dtype):
    """The guard around a row is NaN: vectors are cut at the last column."""
    emulator.device(*emulator.H200)
    x, c, v = (LAYOUTS[layout](t) for t in problem(6, d, batch=(2,), dtype=dtype))
    assert_accurate(emulator.ops.glm_hvp_large(x, c, v, 0.1, True), x, c, v, 0.1, True)


@pytest.mark.parametrize("d", [61, 64])
def test_guard_inside_the_last_vector(emulator, d):
    emulator.device(*emulator.H200)
    x, c, v = problem(6, 72)
    x[:, d:] = math.nan
    assert_accurate(emulator.ops.glm_hvp_large(x[:, :d], c, v[: d + 1], 0.1, True), x[:, :d], c, v[: d + 1], 0.1, True)


@DEVICES
@DTYPES
def test_repeats_are_bitwise_equal(emulator, dtype, device):
    """Although the emulation runs the threads in another order each time."""
    emulator.device(*getattr(emulator, device))
    x, c, v = problem(40, 4200, dtype=dtype)
    results = [emulator.ops.glm_hvp_large(x, c, v, 0.1, True) for _ in range(2)]
    assert torch.equal(*results)


@DEVICES
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_values_arrive(emulator, bad, device):
    emulator.device(*getattr(emulator, device))
    x, c, v = problem(20, 5000)
    x[19, 4999] = bad
    assert not emulator.ops.glm_hvp_large(x, c, v, 0.1, True)[4999].isfinite()
    x[19, 4999], c[3] = 0, bad
    assert not emulator.ops.glm_hvp_large(x, c, v, 0.1, True).isfinite().any()
    c[3], v[2] = 0, bad
    assert not emulator.ops.glm_hvp_large(x, c, v, 0.1, True).isfinite().any()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales(emulator, scale):
    emulator.device(*emulator.H200)
    x, c, v = problem(9, 64, dtype=torch.float64)
    assert_accurate(emulator.ops.glm_hvp_large(x, c * scale, v, scale, True), x, c * scale, v, scale, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("shift", [0, 1], ids=["clusters", "chunks"])
def test_rows_beyond_two_to_the_31(emulator, dtype, shift):
    """Offsets are 64 bits wide; of the reserved memory only two rows are ever touched."""
    emulator.device(*emulator.H200)
    d, stride = 200, 2**31 + 8
    x = torch.empty(stride + d + shift, dtype=dtype).as_strided((2, d), (stride, 1), shift)
    small, c, v = problem(2, d, dtype=dtype)
    x.copy_(small)
    assert_accurate(emulator.ops.glm_hvp_large(x, c, v, 0.1, True), small, c, v, 0.1, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, c, v: (x, c[1:], v, 0.1, True), "4 entries, x has 5 rows"),
        (lambda x, c, v: (x, c, v, 0.1, False), "65 entries, x has 64 columns"),
        (lambda x, c, v: (x, c.double(), v, 0.1, True), "one dtype"),
        (lambda x, c, v: (x, c.double(), v.double(), 0.1, True), "of the type of x"),
        (lambda x, c, v: (x.half(), c, v, 0.1, True), "of the type of x"),
        (lambda x, c, v: (x[0], c, v, 0.1, True), "at least 2 dimensions"),
    ],
)
def test_bad_arguments_are_named(emulator, change, message):
    with pytest.raises(RuntimeError, match=message):
        emulator.ops.glm_hvp_large(*change(*problem(5, 64)))
