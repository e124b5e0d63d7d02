"""spd_solve: C++ and reference against float64 and extended precision, failures that stay in their lane, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from amu_fast.errors import BackendError, DataError
from amu_fast.ops.spd import SPD_SOLVE, spd_solve

UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
RUNS = pytest.mark.parametrize("run", [SPD_SOLVE.bare, SPD_SOLVE.reference], ids=["dispatched", "reference"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
# Around the width of the lanes (4 and 8), of the blocks (4) and above the first-level cache.
ORDERS = pytest.mark.parametrize("p", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 63, 64, 101, 130, 200])


def problem(p, batch=(), kappa=100.0, dtype=torch.float64, seed=0):
    """Symmetric matrices with eigenvalues from 1 to 1/kappa, and right-hand sides."""
    g = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn((*batch, p, p), generator=g, dtype=torch.float64)).Q
    matrix = (q * torch.logspace(0, -math.log10(kappa), p, dtype=torch.float64)) @ q.mT
    matrix = ((matrix + matrix.mT) / 2).to(dtype)
    return matrix, torch.randn((*batch, p), generator=g, dtype=torch.float64).to(dtype)


def oracle(matrix, rhs):
    """The solution of the given matrices in extended precision: float64, corrected twice by extended residuals."""
    wide = matrix.double().tril()
    wide = wide + wide.tril(-1).mT
    batch = torch.broadcast_shapes(matrix.shape[:-2], rhs.shape[:-1])
    exact_matrix = wide.numpy().astype(np.longdouble)
    b = rhs.double().expand(*batch, -1).numpy().astype(np.longdouble)
    u = np.zeros_like(b)
    for _ in range(3):
        residual = b - np.einsum("...ij,...j->...i", exact_matrix, u)
        u = u + torch.linalg.solve(wide, torch.from_numpy(residual.astype(np.float64))).numpy()
    return u


def errors(matrix, rhs, solution):
    exact = oracle(matrix, rhs)
    norm = np.sqrt((exact**2).sum(-1))
    return np.sqrt(((solution.numpy() - exact) ** 2).sum(-1)) / np.where(norm > 0, norm, 1)


def assert_accurate(matrix, rhs, kappa):
    """Per problem: relative error <= 2 max(the reference's, what rounding allows), both against extended precision.

    float64: the solve's backward error is at most about p u, its forward error kappa times that. float32 is refined:
    what is left is (p u kappa)^2 and the rounding of the answer.
    """
    solution, info = SPD_SOLVE.bare(matrix, rhs)
    reference, _ = SPD_SOLVE.reference(matrix, rhs)
    p, unit = matrix.shape[-1], UNIT[matrix.dtype]
    allowed = unit + (p * unit * kappa) ** 2 if matrix.dtype == torch.float32 else p * unit * kappa
    bound = 2 * np.maximum(errors(matrix, rhs, reference), allowed)
    assert solution.dtype == matrix.dtype
    assert info.dtype == torch.int32
    assert info.shape == solution.shape[:-1]
    assert solution.is_contiguous()
    assert not info.any()
    assert (errors(matrix, rhs, solution) <= bound).all()


@ORDERS
@DTYPES
def test_matches_the_oracle(p, dtype):
    assert_accurate(*problem(p, (3,), 30.0, dtype), kappa=30.0)


@DTYPES
@pytest.mark.parametrize("batch", [(), (0,), (1,), (8,), (17,), (2, 3), (2, 0)])
def test_batches(batch, dtype):
    assert_accurate(*problem(9, batch, dtype=dtype), kappa=100.0)


@pytest.mark.parametrize("kappa", [1e2, 1e4])
@pytest.mark.parametrize("p", [16, 64, 128])
def test_float32_is_refined_to_its_own_rounding(p, kappa):
    """What a float32 factor alone cannot: 1e-5 at a condition number of 1e4, the worst of a batch."""
    matrix, rhs = problem(p, (40,), kappa, torch.float32)
    solution, _ = SPD_SOLVE.bare(matrix, rhs)
    assert float(errors(matrix, rhs, solution).max()) <= 1e-5
    plain = torch.cholesky_solve(rhs[..., None], torch.linalg.cholesky(matrix))[..., 0]
    assert kappa < 1e4 or float(errors(matrix, rhs, plain).max()) > 1e-5


@DTYPES
@pytest.mark.parametrize(("of_matrix", "of_rhs"), [(1e30, 1.0), (1e-30, 1.0), (1.0, 1e30), (1.0, 1e-30)])
def test_scales(of_matrix, of_rhs, dtype):
    matrix, rhs = problem(17, (3,), 5.0, dtype)
    assert_accurate(matrix * of_matrix, rhs * of_rhs, kappa=5.0)


@RUNS
def test_nothing_to_solve(run):
    solution, info = run(torch.ones(3, 0, 0), torch.ones(3, 0))
    assert solution.shape == (3, 0)
    assert info.tolist() == [0, 0, 0]


@RUNS
@pytest.mark.parametrize(("matrices", "sides"), [((), (4,)), ((3,), ()), ((2, 1), (3,)), ((1, 3), (2, 1))])
def test_batch_dimensions_broadcast(run, matrices, sides):
    matrix, rhs = problem(5, matrices)[0], problem(5, sides)[1]
    batch = torch.broadcast_shapes(matrices, sides)
    solution, info = run(matrix, rhs)
    assert solution.shape == (*batch, 5)
    assert info.shape == batch
    expected = torch.linalg.solve(matrix.expand(*batch, 5, 5), rhs.expand(*batch, 5))
    torch.testing.assert_close(solution, expected, rtol=1e-11, atol=1e-11)


@RUNS
@DTYPES
@pytest.mark.parametrize("p", [5, 17])
def test_only_the_lower_triangle_is_read(run, p, dtype):
    matrix, rhs = problem(p, (3,), dtype=dtype)
    spoilt = matrix.clone()
    spoilt[:, torch.ones(p, p).triu(1).bool()] = math.nan
    for value, truth in zip(run(spoilt, rhs), run(matrix, rhs), strict=True):
        assert torch.equal(value, truth)


LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "every_second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "among_nan": lambda t: torch.cat([t, torch.full_like(t, math.nan)], -1)[..., : t.shape[-1]],
    "expanded": lambda t: t[:1].expand_as(t),
    "offset": lambda t: torch.cat([torch.full_like(t[:1], math.nan), t])[1:],
    "batch_last": lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0),
}


@DTYPES
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("p", [5, 20])
def test_any_layout(layout, p, dtype):
    matrix, rhs = (LAYOUTS[layout](t) for t in problem(p, (10,), dtype=dtype))
    for value, truth in zip(SPD_SOLVE.bare(matrix, rhs), SPD_SOLVE.bare(matrix.clone(), rhs.clone()), strict=True):
        assert torch.equal(value, truth)
    assert_accurate(matrix, rhs, kappa=100.0)


@DTYPES
@pytest.mark.parametrize(("p", "count"), [(5, 3000), (17, 200), (64, 40)])
def test_digits_depend_neither_on_threads_nor_on_company(p, count, dtype):
    matrix, rhs = problem(p, (count,), dtype=dtype)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results += [SPD_SOLVE.bare(matrix, rhs)[0] for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], r) for r in results[1:])
    for i in (0, 7, count - 1):
        assert torch.equal(SPD_SOLVE.bare(matrix[i], rhs[i])[0], results[0][i])


def spoil(matrix, how):
    """One matrix without a factor, and the pivot that shows it."""
    matrix = matrix.clone()
    if how == "negative":
        return -matrix, 1
    if how == "zero":
        return torch.zeros_like(matrix), 1
    if how == "indefinite":
        matrix[4, 4] = -1.0
        return matrix, 5
    if how == "nan in a corner":
        matrix[-1, 0] = math.nan
        return matrix, matrix.shape[-1]
    matrix[2, 2] = math.nan
    return matrix, 3


@RUNS
@DTYPES
@pytest.mark.parametrize("how", ["negative", "zero", "indefinite", "nan in a corner", "nan"])
@pytest.mark.parametrize("p", [7, 18])
def test_a_failure_is_named_and_stays_in_its_lane(run, how, p, dtype):
    matrix, rhs = problem(p, (20,), dtype=dtype)
    clean, _ = run(matrix, rhs)
    matrix[3], order = spoil(matrix[3], how)
    solution, info = run(matrix, rhs)
    assert info.tolist() == [0] * 3 + [order] + [0] * 16
    assert solution[3].isnan().all()
    others = torch.arange(20) != 3
    assert torch.equal(solution[others], clean[others])


@RUNS
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_values_arrive(run, bad):
    matrix, rhs = problem(9, (3,))
    rhs[1, 4] = bad
    solution, info = run(matrix, rhs)
    assert not info.any()
    assert (~solution.isfinite()).any(-1).tolist() == [False, True, False]
    rhs[1, 4], matrix[1, 4, 2] = 0.0, bad
    assert not run(matrix, rhs)[0][1].isfinite().any()


def arguments(batch=(), p=4):
    matrix, rhs = problem(p, batch, 5.0)
    return matrix.requires_grad_(), rhs.requires_grad_()


@pytest.mark.parametrize("call", [spd_solve, SPD_SOLVE.bare], ids=["public", "bare"])
@pytest.mark.parametrize("batch", [(), (3,), (0,)])
def test_gradcheck(call, batch):
    assert torch.autograd.gradcheck(lambda a, b: call(a, b)[0], arguments(batch))


def test_gradcheck_of_broadcast_arguments():
    assert torch.autograd.gradcheck(lambda a, b: spd_solve(a, b)[0], (arguments((2, 1))[0], arguments((3,))[1]))


def test_the_gradient_is_that_of_a_solve_with_the_lower_triangle():
    """Through a symmetric matrix it is the gradient of torch's solve."""
    matrix, rhs = arguments((3,))
    weights = torch.arange(4.0, dtype=torch.float64)
    got = torch.autograd.grad((spd_solve(matrix @ matrix.mT, rhs)[0] @ weights).sum(), (matrix, rhs))
    expected = torch.autograd.grad((torch.linalg.solve(matrix @ matrix.mT, rhs) @ weights).sum(), (matrix, rhs))
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)
    assert torch.autograd.grad(spd_solve(matrix, rhs)[0].sum(), matrix)[0].triu(1).count_nonzero() == 0


@pytest.mark.parametrize("cotangent", ["sum", "expand", "cat", "every_second"])
def test_cotangents_of_any_stride(cotangent):
    reduce = {
        "sum": lambda u: u.sum(),
        "expand": lambda u: u.expand(4, *u.shape).sum(),
        "cat": lambda u: (torch.cat([u, u.flip(-1)], -1) * torch.arange(8.0, dtype=u.dtype)).sum(),
        "every_second": lambda u: (u[..., ::2] ** 2).sum(),
    }[cotangent]
    args = arguments((3,))
    full = args[0].tril() + args[0].tril(-1).mT
    got = torch.autograd.grad(reduce(spd_solve(*args)[0]), args)
    torch.testing.assert_close(got, torch.autograd.grad(reduce(torch.linalg.solve(full, args[1])), args))


def test_torch_func_and_compile():
    matrix, rhs = (t.detach() for t in arguments((3,)))
    got = torch.func.vmap(lambda a, b: spd_solve(a, b)[0], (0, None))(matrix, rhs[0])
    torch.testing.assert_close(got, torch.linalg.solve(matrix, rhs[0].expand(3, 4)))
    gradient = torch.func.vmap(torch.func.grad(lambda b, a: spd_solve(a, b)[0].sum()))(rhs, matrix)
    torch.testing.assert_close(gradient, torch.linalg.solve(matrix, torch.ones(3, 4, dtype=torch.float64)))
    compiled = torch.compile(lambda a, b: spd_solve(a, b)[0].cos(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(matrix, rhs), spd_solve(matrix, rhs)[0].cos())


def test_a_second_derivative_is_refused():
    matrix, rhs = arguments()
    (first,) = torch.autograd.grad(spd_solve(matrix, rhs)[0].sum(), rhs, create_graph=True)
    with pytest.raises(BackendError, match="spd_solve is differentiable once"):
        (first.sum() + matrix.sum()).backward()


def test_opcheck():
    torch.library.opcheck(SPD_SOLVE.bare, arguments((3,)))
    torch.library.opcheck(SPD_SOLVE.bare, tuple(t.detach().float() for t in arguments()))


@pytest.mark.parametrize(
    ("matrix", "rhs", "message"),
    [
        (torch.ones(3, 4), torch.ones(3), r"shape \(\*b, p, p\), got \(3, 4\)"),
        (torch.ones(4), torch.ones(4), r"shape \(\*b, p, p\), got \(4,\)"),
        (torch.ones(3, 3), torch.ones(4), "one entry per row"),
        (torch.ones(3, 3), torch.ones(()), "one entry per row"),
        (torch.ones(3, 3), torch.ones(3).double(), "float64"),
        (torch.ones(3, 3).half(), torch.ones(3).half(), "float16"),
    ],
)
def test_bad_arguments_are_named(matrix, rhs, message):
    with pytest.raises(DataError, match=message):
        spd_solve(matrix, rhs)


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize("p", [1, 17, 64, 130])
def test_on_a_cuda_device(p, dtype):
    matrix, rhs = problem(p, (20,), 30.0, dtype)
    matrix[3], order = spoil(matrix[3], "negative")
    solution, info = SPD_SOLVE.bare(matrix.cuda(), rhs.cuda())
    assert solution.device.type == info.device.type == "cuda"
    assert info.tolist() == [0] * 3 + [order] + [0] * 16
    assert solution[3].isnan().all()
    good = torch.arange(20) != 3
    reference, _ = SPD_SOLVE.reference(matrix[good], rhs[good])
    bound = 2 * np.maximum(errors(matrix[good], rhs[good], reference), 30 * p * UNIT[dtype])
    assert (errors(matrix[good], rhs[good], solution.cpu()[good]) <= bound).all()
