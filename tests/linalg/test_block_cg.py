"""Block conjugate gradients: fewer products than column by column, and no breakdown."""

from __future__ import annotations

import pytest
import torch
from linalg.systems import Counting, assert_solved, normal, residual_norms, rounding, spd, statuses, symmetric

from amu_fast.errors import DataError
from amu_fast.linalg import BlockConjugateGradient, ConjugateGradient, JacobiPreconditioner, MatrixOperator
from amu_fast.linalg.block import independent
from amu_fast.status import Status


class Columns(Counting):
    """Counts right-hand sides multiplied, and the most at once."""

    widest = 0

    def matvec(self, v):
        self.products += len(v) - 1
        self.widest = max(self.widest, len(v))
        return super().matvec(v)


@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e5])
def test_one_space_for_all_needs_fewer_steps_and_fewer_products(kappa):
    matrix, rhs = spd(200, kappa), normal(8, 200)
    together, alone = Columns(matrix), Columns(matrix)
    solution = BlockConjugateGradient(rtol=1e-8).solve(together, rhs)
    each = ConjugateGradient(rtol=1e-8, max_steps=10**5).solve(alone, rhs)
    assert_solved(matrix, rhs, solution, 1e-8, smallest=1 / kappa)
    assert statuses(each) == {"CONVERGED"}
    assert int(solution.steps.max()) < 0.8 * int(each.steps.min())
    assert together.products < (0.75 if kappa == 1e2 else 0.3) * alone.products


def awkward(kind):
    rhs = normal(8, 200)
    if kind == "duplicates":
        rhs[3], rhs[5] = rhs[2], -7 * rhs[2]
    if kind == "dependent":
        rhs[6] = rhs[0] + rhs[1]
        rhs[7] = rhs[2] - 3 * rhs[3] + rhs[6]
    if kind == "nearly dependent":
        for i, gap in ((1, 1e-3), (2, 1e-6), (3, 1e-9), (4, 1e-12)):
            rhs[i] = rhs[0] + gap * rhs[i]
    if kind == "zero":
        rhs[2] = rhs[5] = 0
    if kind == "scales":
        rhs = rhs * torch.logspace(-30, 30, 8, dtype=torch.float64)[:, None]
    if kind == "an eigenvector":
        rhs[1] = torch.linalg.eigh(spd(200, 1e4)).eigenvectors[:, 7]
    return rhs


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize(
    ("kind", "rank"),
    [
        ("plain", 8),
        ("duplicates", 6),
        ("dependent", 6),
        ("nearly dependent", 8),
        ("zero", 6),
        ("scales", 8),
        ("an eigenvector", 8),
    ],
)
def test_right_hand_sides_that_depend_on_each_other_break_nothing(kind, rank, preconditioned):
    d = torch.logspace(0, 2, 200, dtype=torch.float64).sqrt() if preconditioned else torch.ones(200).double()
    matrix, rhs = d[:, None] * spd(200, 1e4) * d, awkward(kind)
    operator = Columns(matrix)
    hint = JacobiPreconditioner.from_operator(MatrixOperator(matrix)) if preconditioned else None
    solution = BlockConjugateGradient(rtol=1e-9).solve(operator, rhs, preconditioner=hint)
    assert_solved(matrix, rhs, solution, 1e-9, smallest=1e-4)
    # eight plain ones take 67 steps, one alone about 480
    assert int(solution.steps.max()) < 110
    assert operator.widest == (8 if kind in ("zero", "duplicates", "dependent") else rank)


def test_a_warm_start_that_solves_some_needs_only_the_others():
    matrix, rhs = spd(63, 1e3), normal(4, 63)
    initial = torch.zeros_like(rhs)
    initial[1] = torch.linalg.solve(matrix, rhs[1])
    solution = BlockConjugateGradient().solve(MatrixOperator(matrix), rhs, initial=initial)
    assert_solved(matrix, rhs, solution, 1e-6, smallest=1e-3)
    assert solution.steps[1] == 0
    assert torch.equal(solution.value[1], initial[1])


def test_every_right_hand_side_has_its_own_verdict():
    matrix, rhs = spd(63, 1e3), normal(4, 63)
    rhs[2, 5] = torch.nan
    solution = BlockConjugateGradient().solve(MatrixOperator(matrix), rhs)
    assert solution.status.tolist() == [Status.CONVERGED, Status.CONVERGED, Status.NONFINITE, Status.CONVERGED]
    assert bool(solution.value[2].isnan().all())
    clean = BlockConjugateGradient().solve(MatrixOperator(matrix), rhs[[0, 1, 3]])
    torch.testing.assert_close(solution.value[[0, 1, 3]], clean.value, rtol=1e-4, atol=1e-4)


def test_indefinite_is_all_of_that_operator_and_no_other():
    eigenvalues = torch.ones(17, dtype=torch.float64)
    eigenvalues[7] = -0.5
    matrices = torch.stack([symmetric(eigenvalues), spd(17, 5.0)])
    solution = BlockConjugateGradient().solve(MatrixOperator(matrices), normal(4, 2, 17))
    assert set(solution.status[:, 0].tolist()) == {Status.INDEFINITE}
    assert set(solution.status[:, 1].tolist()) == {Status.CONVERGED}


def test_a_preconditioner_that_is_not_positive_definite_is_indefinite():
    wrong = MatrixOperator(-torch.eye(17, dtype=torch.float64))
    solution = BlockConjugateGradient().solve(MatrixOperator(spd(17, 10.0)), normal(3, 17), preconditioner=wrong)
    assert statuses(solution) == {"INDEFINITE"}


def test_more_right_hand_sides_than_unknowns():
    matrix, rhs = spd(5, 10.0), normal(2, 9, 5)
    operator = Counting(matrix)
    solution = BlockConjugateGradient(rtol=1e-12).solve(operator, rhs)
    assert_solved(matrix, rhs, solution, 1e-12, smallest=0.1)
    assert int(solution.steps.max()) <= 2


@pytest.mark.parametrize("refresh_every", [3, 10, 10_000])
def test_looking_at_the_true_residual_does_not_disturb_the_iteration(refresh_every):
    matrix, rhs = spd(100, 1e4), normal(4, 100)
    solution = BlockConjugateGradient(refresh_every=refresh_every).solve(MatrixOperator(matrix), rhs)
    other = BlockConjugateGradient().solve(MatrixOperator(matrix), rhs)
    assert statuses(solution) == {"CONVERGED"}
    assert abs(int(solution.steps.max()) - int(other.steps.max())) <= 1


def test_float32_beyond_what_it_resolves_is_not_claimed():
    matrix, rhs = spd(300, 1e4, dtype=torch.float32), normal(4, 300, dtype=torch.float32)
    solution = BlockConjugateGradient(rtol=1e-7, max_steps=1000).solve(MatrixOperator(matrix), rhs)
    assert statuses(solution) <= {"STAGNATED", "MAX_STEPS"}
    gap = solution.residual_norms - residual_norms(matrix, rhs, solution.value)
    assert bool((gap.abs() <= rounding(matrix, rhs, solution.value)).all())


def test_a_basis_spans_the_columns_at_their_own_scales():
    block = normal(2, 30, 3) * torch.tensor([1.0, 1e-20, 1e20], dtype=torch.float64)
    block[1, :, 2] = 5 * block[1, :, 0]
    basis, factor, kept = independent(block, 1e-14)
    assert kept.sum(-1).tolist() == [3, 2]
    torch.testing.assert_close(basis.mT @ basis, torch.diag_embed(kept.double()), atol=1e-14, rtol=0)
    assert bool(((basis @ factor - block).norm(dim=-2) <= 1e-14 * block.norm(dim=-2)).all())


@pytest.mark.parametrize("option", ["max_steps", "refresh_every"])
def test_counts_must_be_positive(option):
    with pytest.raises(DataError, match=f"BlockConjugateGradient: {option} must be >= 1, got 0"):
        BlockConjugateGradient(**{option: 0})
