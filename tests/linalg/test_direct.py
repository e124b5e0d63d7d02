"""Cholesky factors and iterative refinement: what float32 inside float64 buys, and when it cannot."""

from __future__ import annotations

import pytest
import torch
from linalg.systems import DTYPES, Counting, Questions, assert_solved, normal, rounding, spd, statuses, symmetric

from amu_fast.errors import DataError
from amu_fast.linalg import Cholesky, ConjugateGradient, GlmHessian, MatrixOperator, Refinement, to_dense
from amu_fast.status import Status


def relative_error(matrix, rhs, value):
    exact = torch.linalg.solve(matrix.double(), rhs.double())
    return float((value.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("kappa", [1e1, 1e4])
def test_refinement_brings_a_float32_factor_to_float64_accuracy(kappa):
    matrix, rhs = spd(63, kappa), normal(63)
    narrow = Cholesky().factor(MatrixOperator(matrix), torch.float32).matvec(rhs)
    refined = Refinement().solve(MatrixOperator(matrix), rhs)
    assert_solved(matrix, rhs, refined, 1e-10, smallest=1 / kappa)
    assert relative_error(matrix, rhs, narrow) > 1e-8
    assert relative_error(matrix, rhs, refined.value) < 1e-9
    assert int(refined.steps) <= 5


def test_refinement_at_tight_tolerance_equals_a_float64_factor():
    """Backward stable: the residual is a few roundings of ||A|| ||u||, as after a float64 factorisation."""
    matrix, rhs = spd(63, 1e4), normal(63)
    solution = Refinement(rtol=1e-15).solve(MatrixOperator(matrix), rhs)
    direct = Cholesky().solve(MatrixOperator(matrix), rhs)
    assert float(solution.residual_norms) <= 2 * max(
        float(direct.residual_norms), float(rounding(matrix, rhs, direct.value)) / 65
    )
    assert statuses(solution) == {"STAGNATED"}


def test_each_step_gains_digits_and_one_is_often_enough():
    matrix, rhs = spd(63, 1e4), normal(63)
    norms = [
        float(Refinement(max_steps=k, rtol=1e-14).solve(MatrixOperator(matrix), rhs).residual_norms) for k in (1, 2, 3)
    ]
    assert norms[1] < 1e-2 * norms[0]
    assert norms[2] < 1e-2 * norms[1]
    assert statuses(Refinement(max_steps=1, rtol=1e-14).solve(MatrixOperator(matrix), rhs)) == {"MAX_STEPS"}


def test_a_matrix_beyond_the_factors_precision_is_reported():
    matrices = torch.stack([spd(300, 1e10), spd(300, 10.0)])
    solution = Refinement().solve(MatrixOperator(matrices), normal(2, 300))
    assert solution.status[0] in (Status.INDEFINITE, Status.STAGNATED)
    assert solution.status[1] == Status.CONVERGED
    in_double = Refinement(factor_dtype=torch.float64, rtol=1e-6).solve(MatrixOperator(matrices), normal(2, 300))
    assert statuses(in_double) == {"CONVERGED"}


def test_float32_cholesky_does_not_claim_a_tolerance_it_misses():
    matrix, rhs = spd(63, 1e4, dtype=torch.float32), normal(63, dtype=torch.float32)
    solution = Cholesky().solve(MatrixOperator(matrix), rhs)
    assert statuses(solution) == {"STAGNATED"}
    assert float(solution.residual_norms) > 1e-6 * float(rhs.norm())
    assert statuses(Cholesky(rtol=1e-3).solve(MatrixOperator(matrix), rhs)) == {"CONVERGED"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_unknowns_of_wildly_different_scales(dtype):
    """D A D with D over 24 (float32: 12) orders of magnitude: beyond float32's squares, yet exactly equilibrated."""
    d = 2.0 ** torch.arange(-8.0, 9.0, dtype=torch.float64) ** (2 if dtype == torch.float64 else 1)
    matrix, well = (d[:, None] * spd(17, 5.0) * d).to(dtype), spd(17, 5.0).to(dtype)
    rhs = normal(17, dtype=dtype)
    value = Cholesky().factor(MatrixOperator(matrix), torch.float32).matvec(d.to(dtype) * rhs) * d.to(dtype)
    plain = Cholesky().factor(MatrixOperator(well), torch.float32).matvec(rhs)
    torch.testing.assert_close(value, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_eigenvalues_beyond_float32_go_through_a_float32_factor(scale):
    matrix, rhs = spd(17, 100.0) * scale, normal(17) * 1e-40
    assert_solved(matrix, rhs, Refinement().solve(MatrixOperator(matrix), rhs), 1e-10, smallest=0.01 * scale)


def test_a_factor_knows_its_failures():
    matrices = spd(17, 5.0, (3,))
    matrices[0] = symmetric(torch.tensor([*[1.0] * 16, -1.0], dtype=torch.float64))
    matrices[2, 0, 0] = torch.nan
    factor = Cholesky().factor(MatrixOperator(matrices))
    assert factor.status.tolist() == [Status.INDEFINITE, Status.CONVERGED, Status.NONFINITE]
    assert factor.shape == (3, 17, 17)
    products = factor.matvec(normal(4, 3, 17))
    assert products.isnan().all(-1).all(0).tolist() == [True, False, True]
    exact = torch.linalg.solve(matrices[1], normal(4, 3, 17)[:, 1].mT).mT
    torch.testing.assert_close(products[:, 1], exact, rtol=1e-12, atol=1e-12)


def test_a_matrix_that_is_not_symmetric_is_not_solved_in_silence():
    matrix = spd(17, 5.0)
    matrix[3, 5] += 0.5
    assert statuses(Cholesky().solve(MatrixOperator(matrix), normal(17))) == {"STAGNATED"}


def test_a_direct_solve_asks_the_device_nothing():
    operator, rhs = MatrixOperator(spd(17, 5.0, (3,))), normal(3, 17)
    with Questions() as questions:
        solution = Cholesky().solve(operator, rhs)
    assert questions.count == 0
    with Questions() as questions:
        solution.raise_for_status()
    assert questions.count == 1


def test_refinement_factors_once():
    counting = Counting(spd(17, 1e4))
    solution = Refinement().solve(counting, normal(17))
    assert counting.products == 1 + int(solution.steps)


def test_refinement_with_an_iterative_inner_solver():
    matrix, rhs = spd(63, 1e3, (3,)), normal(2, 3, 63)
    inner = ConjugateGradient(rtol=1e-2, max_steps=200)
    preconditioner = Cholesky().factor(MatrixOperator(matrix))
    for hint in (None, preconditioner):
        solution = Refinement(inner=inner).solve(MatrixOperator(matrix), rhs, preconditioner=hint)
        assert_solved(matrix, rhs, solution, 1e-10, smallest=1e-3)


def test_a_warm_start_saves_corrections():
    matrix, rhs = spd(63, 1e4), normal(63)
    cold = Refinement().solve(MatrixOperator(matrix), rhs)
    warm = Refinement().solve(MatrixOperator(matrix), rhs, initial=cold.value)
    assert int(cold.steps) > int(warm.steps) == 0
    assert torch.equal(cold.value, warm.value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_hessian_of_a_follower(dtype):
    """l2 = 1e-2 with 2,000 rows: residuals are taken by products with the rows, not with the Gram matrix."""
    x = normal(3, 2000, 17, dtype=dtype)
    h = GlmHessian(x, normal(3, 2000, seed=1, dtype=dtype).abs() / 2000, l2=1e-2)
    rhs = normal(2, 3, 18, dtype=dtype)
    rtol = 1e-5 if dtype == torch.float32 else 1e-12
    solution = Cholesky(rtol=rtol).solve(h, rhs)
    assert statuses(solution) == {"CONVERGED"}
    exact = torch.linalg.solve(to_dense(GlmHessian(x.double(), h.c.double(), 1e-2)), rhs.double()[..., None])[..., 0]
    # ||H^-1|| <= 1/l2.
    assert bool(((solution.value - exact).norm(dim=-1) <= 2 * rtol * rhs.double().norm(dim=-1) / 1e-2).all())


def test_factor_dtype_out_of_range_is_named():
    with pytest.raises(DataError, match=r"factor_dtype must be torch.float32 or float64, got torch.bfloat16"):
        Refinement(factor_dtype=torch.bfloat16)
