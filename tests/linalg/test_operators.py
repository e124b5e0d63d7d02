"""Operators against dense float64: products, matrices, diagonals, narrower copies."""

from __future__ import annotations

import pytest
import torch
from linalg.systems import DTYPES, Counting, normal, spd

from amu_fast.errors import DataError
from amu_fast.linalg import DampedOperator, GlmHessian, LinearOperator, MatrixOperator, cast, diagonal, to_dense

BATCHES = pytest.mark.parametrize("batch", [(), (0,), (1,), (3,), (2, 3)])
SEVERAL = pytest.mark.parametrize("several", [(), (1,), (4,), (2, 4)])
TYPES = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


def glm(batch, d, dtype, intercept=True, n=20, l2=0.25):
    return GlmHessian(normal(*batch, n, d, seed=1, dtype=dtype), normal(*batch, n, dtype=dtype).abs(), l2, intercept)


def glm_matrix(h, dtype=torch.float64):
    """X~^T diag(c) X~ + l2 I in `dtype`, by its formula; and the same of absolute values."""
    x, c = h.x.to(dtype), h.c.to(dtype)
    if h.intercept:
        x = torch.cat([x, x.new_ones((*x.shape[:-1], 1))], -1)
    eye = torch.eye(x.shape[-1], dtype=dtype)
    return x.mT @ (x * c[..., None]) + h.l2 * eye, x.abs().mT @ (x.abs() * c[..., None]) + h.l2 * eye


def assert_close_by_rule(result, v, exact, absolute, reference, eps):
    """Error <= 2 max(the same-precision reference's error, (number of terms) eps sum |terms|), both against float64."""
    truth = (exact @ v.double()[..., None])[..., 0]
    terms = (absolute @ v.double().abs()[..., None])[..., 0]
    of_reference = (reference.double() - truth).abs()
    allowed = 2 * torch.maximum(of_reference, (v.shape[-1] + 20) * eps * terms)
    assert result.dtype == v.dtype
    assert result.shape == v.shape
    assert bool(((result.double() - truth).abs() <= allowed).all())


@TYPES
@BATCHES
@SEVERAL
@pytest.mark.parametrize("p", [1, 17, 63])
def test_matrix_products(dtype, batch, several, p):
    a, v = spd(p, 10.0, batch, dtype=dtype), normal(*several, *batch, p, seed=2, dtype=dtype)
    reference = (a @ v[..., None])[..., 0]
    exact = a.double()
    assert_close_by_rule(MatrixOperator(a).matvec(v), v, exact, exact.abs(), reference, torch.finfo(dtype).eps)


@TYPES
@BATCHES
@SEVERAL
@pytest.mark.parametrize(("d", "intercept"), [(0, True), (1, False), (17, True), (63, False)])
def test_glm_products(dtype, batch, several, d, intercept):
    h = glm(batch, d, dtype, intercept)
    v = normal(*several, *batch, d + intercept, seed=2, dtype=dtype)
    assert h.shape == (*batch, d + intercept, d + intercept)
    reference = (glm_matrix(h, dtype)[0] @ v[..., None])[..., 0]
    assert_close_by_rule(h.matvec(v), v, *glm_matrix(h), reference, torch.finfo(dtype).eps)


def test_products_take_any_strides():
    h, a = glm((3,), 7, torch.float64), spd(8, 10.0, (3,))
    v = normal(8, 3, 5).permute(2, 1, 0)
    for operator in (h, MatrixOperator(a), GlmHessian(h.x.mT.contiguous().mT, h.c, h.l2)):
        torch.testing.assert_close(operator.matvec(v), operator.matvec(v.contiguous()), rtol=1e-13, atol=1e-13)
    shared = GlmHessian(h.x[0].expand(3, 20, 7), h.c, h.l2)
    assert torch.equal(shared.matvec(v), GlmHessian(h.x[:1].repeat(3, 1, 1), h.c, h.l2).matvec(v))


def test_many_right_hand_sides_are_the_single_ones():
    h = glm((3,), 7, torch.float64)
    v = normal(5, 3, 8)
    one_by_one = torch.stack([h.matvec(each) for each in v])
    torch.testing.assert_close(h.matvec(v), one_by_one, rtol=1e-14, atol=1e-14)


@BATCHES
def test_dense_and_diagonal(batch):
    h, a = glm(batch, 7, torch.float64), spd(8, 10.0, batch)
    for operator, exact in ((h, glm_matrix(h)[0]), (MatrixOperator(a), a)):
        damped = DampedOperator(operator, 0.5)
        shifted = exact + 0.5 * torch.eye(8, dtype=torch.float64)
        for known, matrix in ((operator, exact), (damped, shifted)):
            torch.testing.assert_close(to_dense(known), matrix, rtol=1e-14, atol=1e-14)
            torch.testing.assert_close(diagonal(known), matrix.diagonal(dim1=-2, dim2=-1), rtol=1e-14, atol=1e-14)
            v = normal(2, *batch, 8)
            expected = (matrix @ v[..., None])[..., 0]
            torch.testing.assert_close(known.matvec(v), expected, rtol=1e-13, atol=1e-13)


@BATCHES
def test_dense_by_products_needs_one_call(batch):
    a = spd(5, 10.0, batch)
    counting = Counting(a)
    torch.testing.assert_close(to_dense(counting), a, rtol=1e-15, atol=0)
    assert counting.products == 1


def test_a_diagonal_that_would_cost_p_products_is_refused():
    with pytest.raises(DataError, match=r"Counting has no diagonal\(\)"):
        diagonal(Counting(spd(5, 10.0)))


def test_casts_round_the_data_or_the_products():
    a = spd(5, 10.0)
    for operator in (MatrixOperator(a), glm((), 4, torch.float64), DampedOperator(MatrixOperator(a), 0.5), Counting(a)):
        narrow, v = cast(operator, torch.float32), normal(5, dtype=torch.float32)
        assert narrow.dtype == torch.float32
        assert narrow.shape == operator.shape
        assert narrow.matvec(v).dtype == torch.float32
        torch.testing.assert_close(narrow.matvec(v).double(), operator.matvec(v.double()), rtol=1e-5, atol=1e-5)
        assert cast(operator, torch.float64) is operator


def test_all_are_linear_operators():
    a = MatrixOperator(spd(5, 10.0))
    for operator in (a, glm((), 4, torch.float64), DampedOperator(a, 0.5), Counting(a.matrix)):
        assert isinstance(operator, LinearOperator)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MatrixOperator(torch.ones(3, 4)), r"shape \(\*b, p, p\), got torch.float32 \(3, 4\)"),
        (lambda: MatrixOperator(torch.ones(3, 3, dtype=torch.int64)), "got torch.int64"),
        (lambda: GlmHessian(torch.ones(3, 2), torch.ones(4), 0.1), r"\(3, 2\) and torch.float32 \(4,\)"),
        (lambda: GlmHessian(torch.ones(3, 2), torch.ones(3).double(), 0.1), "float64"),
        (lambda: GlmHessian(torch.ones(3, 2), torch.ones(3), -0.1), "l2 must be finite and >= 0, got -0.1"),
        (lambda: GlmHessian(torch.ones(3, 2), torch.ones(3), float("nan")), "l2 must be finite and >= 0, got nan"),
        (lambda: DampedOperator(MatrixOperator(torch.eye(2)), -1.0), "damping must be finite and >= 0, got -1.0"),
    ],
)
def test_what_cannot_be_an_operator_is_named(make, message):
    with pytest.raises(DataError, match=message):
        make()
