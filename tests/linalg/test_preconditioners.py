"""Preconditioners: the matrices they stand for, and the steps they save."""

from __future__ import annotations

import pytest
import torch
from linalg.systems import DTYPES, Counting, assert_solved, normal, spd, statuses, symmetric

from amu_fast.errors import DataError
from amu_fast.linalg import (
    ConjugateGradient,
    DampedOperator,
    GlmHessian,
    JacobiPreconditioner,
    MatrixOperator,
    NystromPreconditioner,
    to_dense,
)


def decaying(p, shift, batch=(), dtype=torch.float64, seed=0):
    """A + shift I with eigenvalues of A 1, 1/4, 1/9, ... : a fast decay, few of them above the shift."""
    eigenvalues = 1 / torch.arange(1, p + 1, dtype=torch.float64) ** 2
    return symmetric(eigenvalues + shift, batch, seed, dtype), float((eigenvalues / (eigenvalues + shift)).sum())


def condition(preconditioner, matrix):
    """lambda_max/lambda_min of M H, by the eigenvalues of M^1/2 H M^1/2."""
    values, vectors = torch.linalg.eigh(to_dense(preconditioner).double())
    root = (vectors * values.sqrt()) @ vectors.mT
    spectrum = torch.linalg.eigvalsh(root @ matrix.double() @ root)
    return float(spectrum.max() / spectrum.min())


@pytest.mark.parametrize("shift", [1e-2, 1e-4])
def test_nystrom_condition_is_below_28_at_twice_the_effective_dimension(shift):
    matrix, effective = decaying(300, shift)
    rank = min(300, 2 * int(1.5 * effective + 1) + 1)
    preconditioner = NystromPreconditioner.from_operator(MatrixOperator(matrix), rank, shift=shift)
    assert condition(preconditioner, matrix) < 28 < 1 / shift / 2


def test_nystrom_saves_steps_once_its_rank_reaches_the_effective_dimension():
    matrix, effective = decaying(300, 1e-4)
    operator, rhs = MatrixOperator(matrix), normal(300)
    assert 100 < effective < 200
    steps = []
    for rank in (1, 50, 2 * int(effective)):
        preconditioner = NystromPreconditioner.from_operator(operator, rank, shift=1e-4)
        solution = ConjugateGradient(rtol=1e-8).solve(operator, rhs, preconditioner=preconditioner)
        assert_solved(matrix, rhs, solution, 1e-8, smallest=1e-4)
        steps.append(int(solution.steps))
    plain = int(ConjugateGradient(rtol=1e-8).solve(operator, rhs).steps)
    assert plain > 100
    assert steps[1] < plain / 2
    assert steps[2] < plain / 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_nystrom_is_positive_definite_with_the_weights_of_its_formula(dtype):
    matrix, _ = decaying(63, 1e-3, (3,), dtype)
    m = NystromPreconditioner.from_operator(MatrixOperator(matrix), 10, shift=1e-3)
    eps = torch.finfo(dtype).eps
    assert m.basis.shape == (3, 63, 10)
    gram = m.basis.double().mT @ m.basis.double()
    torch.testing.assert_close(gram, torch.eye(10).double().expand(3, 10, 10), rtol=0, atol=20 * eps)
    assert bool((m.weights > 0).all())
    assert bool((m.weights <= 1).all())
    assert bool(((m.weights == 1).sum(-1) == 1).all())
    # Nystrom approximations lie below the matrix, so no weight undoes more than its eigenvalue deserves.
    approximated = (m.weights[:, -1:] * (1e-3 + 1e-2)).reciprocal()
    assert bool(approximated.isfinite().all())
    assert bool((torch.linalg.eigvalsh(to_dense(m).double()) > 0).all())


def test_nystrom_of_full_rank_is_the_inverse():
    matrix = spd(17, 1e3, (3,))
    for shift in (0.0, 1e-3):
        m = NystromPreconditioner.from_operator(MatrixOperator(matrix), 17, shift=shift)
        # l_r + mu = l_min = 1e-3.
        product = 1e3 * to_dense(m) @ matrix
        eye = torch.eye(17, dtype=torch.float64)
        torch.testing.assert_close(product, eye.expand(3, 17, 17), rtol=0, atol=1e-8)


def test_nystrom_without_a_shift_takes_low_rank_parts_and_rank_deficiency():
    matrix, rhs = decaying(63, 0.0)[0], normal(63)
    operator = MatrixOperator(matrix)
    helped = ConjugateGradient().solve(operator, rhs, preconditioner=NystromPreconditioner.from_operator(operator, 30))
    assert int(helped.steps) < int(ConjugateGradient().solve(operator, rhs).steps) / 2
    # A singular matrix of rank 3: directions the sketch does not see keep weight 1, nothing is divided by 0.
    singular = MatrixOperator(symmetric(torch.tensor([3.0, 2.0, 1.0, *[0.0] * 60], dtype=torch.float64)))
    m = NystromPreconditioner.from_operator(singular, 10)
    assert bool((m.weights > 0).all())
    consistent = singular.matvec(normal(63))
    solution = ConjugateGradient().solve(singular, consistent, preconditioner=m)
    assert statuses(solution) == {"CONVERGED"}
    assert int(solution.steps) <= 3


@pytest.mark.parametrize("damping", [0.0, 0.05])
def test_nystrom_knows_the_shift_of_followers_and_of_damping(damping):
    x = normal(2, 40, 63) / torch.arange(1, 64)
    h = DampedOperator(GlmHessian(x, torch.full((2, 40), 1 / 40, dtype=torch.float64), l2=1e-2), damping)
    by_default = NystromPreconditioner.from_operator(h, 8)
    by_hand = NystromPreconditioner.from_operator(h, 8, shift=1e-2 + damping)
    assert torch.equal(by_default.weights, by_hand.weights)
    assert not torch.equal(by_default.weights, NystromPreconditioner.from_operator(h, 8, shift=0.0).weights)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nystrom_of_a_batch_is_that_of_its_problems(dtype):
    matrix, _ = decaying(63, 1e-2, (3,), dtype)
    together = NystromPreconditioner.from_operator(MatrixOperator(matrix), 6, shift=1e-2)
    for i in range(3):
        alone = NystromPreconditioner.from_operator(MatrixOperator(matrix[i]), 6, shift=1e-2)
        v = normal(4, 63, dtype=dtype)
        both = together.matvec(v[:, None].expand(4, 3, 63))[:, i], alone.matvec(v)
        torch.testing.assert_close(*both, rtol=1e-4 if dtype == torch.float32 else 1e-11, atol=1e-5)


def test_nystrom_repeats_by_seed_and_makes_its_products_in_one_call():
    counting = Counting(decaying(63, 1e-2)[0])
    first = NystromPreconditioner.from_operator(counting, 6, shift=1e-2, seed=3)
    assert counting.products == 1
    assert torch.equal(first.basis, NystromPreconditioner.from_operator(counting, 6, shift=1e-2, seed=3).basis)
    assert not torch.equal(first.basis, NystromPreconditioner.from_operator(counting, 6, shift=1e-2, seed=4).basis)


@pytest.mark.parametrize("batch", [(0,), (1,)])
def test_nystrom_takes_empty_batches_and_one_unknown(batch):
    m = NystromPreconditioner.from_operator(MatrixOperator(spd(1, 1.0, batch)), 1)
    torch.testing.assert_close(m.matvec(normal(*batch, 1)), normal(*batch, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be between 1 and p = 5, got 0"),
        ({"rank": 6}, "rank must be between 1 and p = 5, got 6"),
        ({"rank": 2, "shift": -1.0}, "shift must be finite and >= 0, got -1.0"),
    ],
)
def test_nystrom_options_out_of_range_are_named(options, message):
    with pytest.raises(DataError, match=message):
        NystromPreconditioner.from_operator(MatrixOperator(spd(5, 10.0)), **options)


def test_jacobi_undoes_bad_scaling():
    d = torch.logspace(0, 4, 63, dtype=torch.float64)
    matrix, rhs = d[:, None] * spd(63, 3.0) * d, normal(63)
    operator = MatrixOperator(matrix)
    jacobi = JacobiPreconditioner.from_operator(operator)
    assert jacobi.shape == (63, 63)
    torch.testing.assert_close(to_dense(jacobi), torch.diag(1 / matrix.diagonal()))
    helped = ConjugateGradient().solve(operator, rhs, preconditioner=jacobi)
    plain = ConjugateGradient().solve(operator, rhs)
    assert_solved(matrix, rhs, helped, 1e-6, smallest=1 / 3)
    assert int(helped.steps) < int(plain.steps) / 4


def test_jacobi_shows_a_diagonal_that_is_not_positive():
    for entry, name in ((0.0, "NONFINITE"), (-1.0, "INDEFINITE")):
        operator = MatrixOperator(torch.diag(torch.tensor([entry, 1.0, 1.0], dtype=torch.float64)))
        jacobi = JacobiPreconditioner.from_operator(operator)
        rhs = torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)
        assert statuses(ConjugateGradient().solve(operator, rhs, preconditioner=jacobi)) == {name}


def glm_of_decay(n=2000, d=60, batch=(), dtype=torch.float64, seed=0):
    """Rows whose spectrum falls as j^-2, of very different lengths and weights."""
    x = normal(*batch, n, d, seed=seed) * torch.arange(1, d + 1).double() ** -2
    x = x @ torch.linalg.qr(normal(d, d, seed=7)).Q * normal(*batch, n, 1, seed=3).exp()
    return GlmHessian(x.to(dtype), (normal(*batch, n, seed=4).abs() / n).to(dtype), 1e-6, intercept=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("damped", [False, True])
def test_a_sample_of_the_rows_finds_nearly_the_same_directions(dtype, damped):
    h = glm_of_decay(dtype=dtype)
    operator = DampedOperator(h, 1e-6) if damped else h
    rhs = h.x.mT @ (h.c * normal(2000, seed=5, dtype=dtype))
    solver = ConjugateGradient(rtol=1e-4, max_steps=2000)
    steps = {}
    for rows in (None, 400):
        m = NystromPreconditioner.from_operator(operator, 20, rows=rows)
        solution = solver.solve(operator, rhs, preconditioner=m)
        assert statuses(solution) == {"CONVERGED"}
        steps[rows] = int(solution.steps)
    plain = solver.solve(operator, rhs)
    assert steps[None] <= steps[400] <= 2 * steps[None]
    assert steps[400] < int(plain.steps) / 2


def test_a_sample_has_the_rows_expectation_and_a_batch_its_own():
    """Drawn 40 times as often as there are rows, the sample is the whole."""
    h = glm_of_decay(50, 8, (2, 3))
    m = NystromPreconditioner.from_operator(h, 8, rows=2000, shift=1e-6)
    whole = NystromPreconditioner.from_operator(h, 8, shift=1e-6)
    v = normal(2, 3, 8)
    torch.testing.assert_close(m.matvec(v), whole.matvec(v), rtol=0.2, atol=0.02)
    alone = GlmHessian(h.x[1, 2], h.c[1, 2], h.l2, intercept=False)
    single = NystromPreconditioner.from_operator(alone, 8, rows=2000, shift=1e-6)
    torch.testing.assert_close(m.matvec(v)[1, 2], single.matvec(v[1, 2]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("operator", [MatrixOperator(spd(5, 10.0)), glm_of_decay(20, 5)])
def test_rows_that_cannot_be_drawn_are_named(operator):
    with pytest.raises(DataError, match="only the rows of a GlmHessian, >= 1, are drawn"):
        NystromPreconditioner.from_operator(operator, 2, rows=0 if isinstance(operator, GlmHessian) else 3)


@pytest.mark.parametrize("rank", [1, 30, 60, 61])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_basis_is_orthonormal(rank, dtype):
    """Also where eigenvalues span 1e12: weights next to 0 must not meet a column that is not orthogonal."""
    h = MatrixOperator(spd(61, 1e12, (2,), dtype=torch.float64).to(dtype))
    basis = NystromPreconditioner.from_operator(h, rank).basis.double()
    gram = basis.mT @ basis
    kept = gram.diagonal(dim1=-2, dim2=-1) > 0.5
    expected = torch.diag_embed(kept.double())
    assert float((gram - expected).abs().max()) <= 8 * torch.finfo(dtype).eps
