"""Vector operators: C++ and reference against extended precision, layouts, threads, and what closed problems keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from amu_fast.errors import BackendError, DataError
from amu_fast.ops.vectors import CG_DIRECTION, CG_UPDATE, MULTI_DOT, NEUMANN_STEP, multi_dot

UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
# 16,384 elements are one task of the C++ operators, 32 one of its vectors of sums.
SIZES = pytest.mark.parametrize("n", [0, 1, 17, 63, 1000, 16_384, 40_001])
BATCHES = pytest.mark.parametrize("batch", [(), (0,), (1,), (3,), (2, 3)])


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def long(t):
    return t.numpy().astype(np.longdouble)


def case(operator, n, batch=(), dtype=torch.float64, scale=1.0):
    """Arguments of one operator; every third problem does not run."""
    flat = math.prod(batch)
    running = (torch.arange(flat) % 3 != 2).reshape(batch)
    v = [normal(*batch, n, seed=i, dtype=dtype) * scale for i in range(4)]
    positive = normal(*batch, seed=9).abs() + 0.5
    if operator is MULTI_DOT:
        return [v[0], v[1]]
    if operator is CG_DIRECTION:
        restart = (torch.arange(flat) % 2 == 1).reshape(batch)
        return [v[0], v[1], v[2], positive * scale**2, restart, running]
    if operator is CG_UPDATE:
        # hp along p, so that the curvature is positive.
        return [v[0], 0.5 * v[0] + 0.1 * v[1], positive * scale**2, running, v[2], v[3]]
    return [v[0], v[1], positive, running, v[2], v[3]]


OPERATORS = {
    "multi_dot": (MULTI_DOT, ()),
    "cg_direction": (CG_DIRECTION, (2, 3, 4)),
    "cg_update": (CG_UPDATE, (4, 5)),
    "neumann_step": (NEUMANN_STEP, (4, 5)),
}
EACH = pytest.mark.parametrize("name", OPERATORS)


def call(run, args, written):
    """Results and what was written, in one list; the arguments stay."""
    args = [a.clone() if i in written else a for i, a in enumerate(args)]
    results = run(*args)
    results = [] if results is None else [results] if isinstance(results, torch.Tensor) else list(results)
    return results + [args[i] for i in written]


def oracle(operator, args):
    """The same list in extended precision, and the sums of the terms' magnitudes; dtypes of the scalars kept."""
    dtype = args[0].dtype
    values = [a.numpy() if a.dtype == torch.bool else long(a) for a in args]
    with np.errstate(invalid="ignore", divide="ignore"):
        if operator is MULTI_DOT:
            a, b = values
            return [(a * b).sum(-1)], [abs(a * b).sum(-1)]
        if operator is CG_DIRECTION:
            r, z, p, rz, restart, running = values
            new = (r * z).sum(-1)
            moved = np.where(restart[..., None], z, z + (new / rz)[..., None] * p)
            # The terms of beta are those of <r, z>, which may cancel.
            size = abs(z) + (abs(r * z).sum(-1) / rz)[..., None] * abs(p)
            outputs = [np.where(running[..., None], moved, p), np.where(running, new, rz), restart & ~running]
            return outputs, [size, abs(r * z).sum(-1), np.zeros(running.shape)]
        if operator is CG_UPDATE:
            p, hp, rz, running, y, r = values
            curvature = (p * hp).sum(-1)
            alpha = np.where(running & (curvature > 0), rz / curvature, 0)[..., None]
            y, r, terms = y + alpha * p, r - alpha * hp, (abs(y) + abs(alpha * p), abs(r) + abs(alpha * hp))
            size = np.sqrt((r**2).sum(-1))
            return [curvature, size, y, r], [abs(p * hp).sum(-1), np.sqrt((terms[1] ** 2).sum(-1)), *terms]
        b, hy, eta, running, y, _ = values
        r = b - hy
        eta = np.where(running, eta, 0)[..., None]
        terms = abs(b) + abs(hy)
        sizes = [np.sqrt((terms**2).sum(-1)), abs(y) + abs(eta) * terms, terms]
        assert dtype in UNIT
        return [np.sqrt((r**2).sum(-1)), y + eta * r, r], sizes


def assert_accurate(name, args):
    """The tolerance rule: error <= 2 max(the same-precision reference's, p u sum|terms|), p the 8 roundings."""
    operator, written = OPERATORS[name]
    exact, sizes = oracle(operator, args)
    got, reference = call(operator.bare, args, written), call(operator.reference, args, written)
    for value, plain, truth, size in zip(got, reference, exact, sizes, strict=True):
        assert value.dtype == plain.dtype
        assert value.shape == plain.shape == truth.shape
        if value.dtype == torch.bool:
            assert np.array_equal(value.numpy(), truth)
            continue
        # What is rounded to float32 on the way (alpha, beta, r) enters float64 results too.
        allowed = 8 * UNIT[args[0].dtype] * size
        error, by_reference = abs(long(value) - truth), abs(long(plain) - truth)
        assert (error <= 2 * np.maximum(by_reference, allowed)).all(), float((error - 2 * allowed).max())


@EACH
@DTYPES
@SIZES
def test_matches_the_oracle(name, n, dtype):
    assert_accurate(name, case(OPERATORS[name][0], n, (3,), dtype))


@EACH
@DTYPES
@BATCHES
def test_batches(name, batch, dtype):
    assert_accurate(name, case(OPERATORS[name][0], 63, batch, dtype))


@EACH
@DTYPES
@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_scales(name, dtype, scale):
    assert_accurate(name, case(OPERATORS[name][0], 1000, (3,), dtype, scale))


def test_sums_of_float32_are_those_of_float64():
    """2e7 products of size one: a float32 sum is off in the fourth digit, this one in the fifteenth."""
    a = normal(4_000_000, dtype=torch.float32).abs()
    exact = (long(a) ** 2).sum()
    assert abs(float(MULTI_DOT.bare(a, a)) - exact) <= 1e-13 * exact


@pytest.mark.parametrize("run", ["bare", "reference"])
@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_norms_neither_over_nor_underflow(run, size):
    b, zero = torch.full((3,), size, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    norm = getattr(NEUMANN_STEP, run)(
        b, zero, torch.tensor(1.0).double(), torch.tensor(True), zero.clone(), zero.clone()
    )
    assert float(norm) == pytest.approx(3**0.5 * size, rel=1e-15)


LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT if t.ndim > 1 else t.repeat_interleave(2)[::2],
    "every_second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "among_nan": lambda t: torch.cat([t, torch.full_like(t, math.nan)], -1)[..., : t.shape[-1]],
    "offset": lambda t: torch.cat([torch.full_like(t[:1], math.nan), t])[1:],
}


@EACH
@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(name, layout, dtype):
    operator, written = OPERATORS[name]
    args = case(operator, 63, (4,), dtype)
    expected = call(operator.bare, args, written)
    laid = [LAYOUTS[layout](a) if a.is_floating_point() else a for a in args]
    whole = [laid[i] if laid[i]._base is None else laid[i]._base for i in written]
    guards = [base.isnan() for base in whole]
    results = operator.bare(*laid)
    results = [] if results is None else [results] if isinstance(results, torch.Tensor) else list(results)
    for value, truth in zip(results + [laid[i] for i in written], expected, strict=True):
        assert torch.equal(value, truth)
    # What lies around the strided memory is as it was.
    assert all(torch.equal(base.isnan(), guard) for base, guard in zip(whole, guards, strict=True))


@EACH
def test_expanded_arguments_are_read_and_not_written(name):
    operator, written = OPERATORS[name]
    args = case(operator, 17, (3,))
    read = next(i for i in range(len(args)) if i not in written)
    args[read] = args[read][:1].expand_as(args[read])
    expected = call(operator.reference, args, written)
    for value, truth in zip(call(operator.bare, args, written), expected, strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-13, atol=1e-13)
    if written:
        args[written[0]] = args[written[0]][:1].expand(3, 17)
        with pytest.raises(RuntimeError, match="expanded"):
            operator.bare(*args)


@EACH
@DTYPES
@pytest.mark.parametrize(("n", "batch"), [(100_000, ()), (20_000, (3,)), (17, (500,))])
def test_bitwise_equal_for_any_number_of_threads(name, n, batch, dtype):
    operator, written = OPERATORS[name]
    args, before = case(operator, n, batch, dtype), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results += [call(operator.bare, args, written) for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("name", ["cg_direction", "cg_update", "neumann_step"])
@pytest.mark.parametrize("run", ["bare", "reference"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_does_not_run_keeps_every_bit_beside_what_is_spoilt(name, run, bad):
    operator, written = OPERATORS[name]
    args = case(operator, 63, (3,))
    clean = call(getattr(operator, run), args, written)
    args[0][1, 5] = bad
    for value, truth in zip(call(getattr(operator, run), args, written), clean, strict=True):
        assert torch.equal(value[[0, 2]], truth[[0, 2]])
    closed = [args[i][2] for i in written if i != written[-1] or name != "neumann_step"]
    kept = [value[2] for value in call(getattr(operator, run), args, written)[-len(written) :]]
    assert all(torch.equal(a, b) for a, b in zip(kept, closed, strict=False))


@pytest.mark.parametrize("run", ["bare", "reference"])
def test_an_update_takes_no_step_that_is_not_one(run):
    """Curvature or <r, z> of 0, below 0, NaN or infinite: y and r stay, and the caller sees why."""
    p, r = torch.ones(7, 2, dtype=torch.float64), normal(7, 2)
    curvature = torch.tensor([1.0, 0.0, -1.0, math.nan, math.inf, 1.0, 1.0]).double()
    rz = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, -1.0, math.nan]).double()
    hp, y, r_new = curvature[:, None] * p / 2, torch.zeros(7, 2, dtype=torch.float64), r.clone()
    found, size = getattr(CG_UPDATE, run)(p, hp, rz, torch.ones(7, dtype=torch.bool), y, r_new)
    torch.testing.assert_close(found, curvature, equal_nan=True)
    torch.testing.assert_close(size, r_new.norm(dim=-1))
    assert (y != 0).all(-1).tolist() == [True] + [False] * 6
    assert torch.equal(r_new[1:], r[1:])


@EACH
def test_opcheck(name):
    operator, _ = OPERATORS[name]
    for batch, dtype in (((3,), torch.float64), ((), torch.float32)):
        torch.library.opcheck(operator.bare, tuple(case(operator, 17, batch, dtype)))


def test_gradient_of_dot():
    a, b = normal(2, 1, 5).requires_grad_(), normal(3, 5, seed=1).requires_grad_()
    for run in (multi_dot, MULTI_DOT.bare):
        assert torch.autograd.gradcheck(run, (a, b))
    wide = torch.autograd.grad(multi_dot(a.float(), b.float()).sum(), (a, b))
    torch.testing.assert_close(wide, torch.autograd.grad((a * b).sum(), (a, b)), rtol=1e-6, atol=1e-6)


def test_dot_under_torch_func():
    a, b = normal(4, 5), normal(5, 4, seed=1)
    got = torch.func.vmap(multi_dot, (0, 1))(a, b)
    torch.testing.assert_close(got, (a * b.T).sum(-1))
    got = torch.func.vmap(torch.func.grad(lambda a, b: multi_dot(a, b).sin()), (0, None))(a, b[:, 0])
    torch.testing.assert_close(got, (a @ b[:, 0]).cos()[:, None] * b[:, 0])


@pytest.mark.parametrize("name", ["cg_direction", "cg_update", "neumann_step"])
def test_autograd_is_refused(name):
    operator, written = OPERATORS[name]
    args = case(operator, 5)
    args[0].requires_grad_()
    with pytest.raises(BackendError, match=f"_{name} writes into its arguments and has no gradient"):
        operator.bare(*args)
    with pytest.raises(BackendError, match="has no gradient"):
        torch.func.grad(lambda v: (operator.bare(v, *args[1:]), args[written[0]].sum())[1])(args[0].detach())
    with torch.no_grad():
        before = args[written[0]]._version
        operator.bare(*args)
        assert args[written[0]]._version > before


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_forward_mode_is_refused():
    args = case(NEUMANN_STEP, 5)
    with torch.autograd.forward_ad.dual_level():
        args[0] = torch.autograd.forward_ad.make_dual(args[0], torch.ones_like(args[0]))
        with pytest.raises(BackendError, match="has no gradient"):
            NEUMANN_STEP.bare(*args)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.ones(3), torch.ones(4), "one length"),
        (torch.ones(()), torch.ones(()), "one length"),
        (torch.ones(3), torch.ones(3).double(), "float64"),
        (torch.ones(3).half(), torch.ones(3).half(), "float16"),
    ],
)
def test_bad_arguments_are_named(a, b, message):
    with pytest.raises(DataError, match=message):
        multi_dot(a, b)


@pytest.mark.gpu
@EACH
@DTYPES
@pytest.mark.parametrize("n", [0, 1, 1000, 40_001])
def test_on_a_cuda_device(name, n, dtype):
    operator, written = OPERATORS[name]
    args = case(operator, n, (3,), dtype)
    exact, sizes = oracle(operator, args)
    reference = call(operator.reference, args, written)
    got = call(operator.bare, [a.cuda() for a in args], written)
    for value, plain, truth, size in zip(got, reference, exact, sizes, strict=True):
        assert value.device.type == "cuda"
        if value.dtype == torch.bool:
            assert np.array_equal(value.cpu().numpy(), truth)
            continue
        allowed = np.maximum(abs(long(plain) - truth), 8 * UNIT[dtype] * size)
        assert (abs(long(value.cpu()) - truth) <= 2 * allowed).all()
