"""Every solver on one table of systems: shapes, dtypes, strides, scales, and the failures that are expected.

To add a solver, add a row to SOLVERS and its words to the rows of FAILURES.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from linalg.systems import DTYPES, assert_solved, normal, residual_norms, rounding, spd, statuses, symmetric

from amu_fast.errors import DataError
from amu_fast.linalg import (
    BlockConjugateGradient,
    Cholesky,
    ConjugateGradient,
    JacobiPreconditioner,
    MatrixOperator,
    Neumann,
    NystromPreconditioner,
    Refinement,
)


@dataclass(frozen=True)
class Row:
    solver: Any
    preconditioner: Any = None
    dtypes: tuple = DTYPES

    def solve(self, operator, rhs, **options):
        hint = None if self.preconditioner is None else self.preconditioner(operator)
        return self.solver.solve(operator, rhs, preconditioner=hint, **options)

    def with_rtol(self, rtol):
        return replace(self, solver=replace(self.solver, rtol=rtol))


SOLVERS = {
    "cg": Row(ConjugateGradient(max_steps=400)),
    "cg-jacobi": Row(ConjugateGradient(max_steps=400), JacobiPreconditioner.from_operator),
    "cg-nystrom": Row(
        ConjugateGradient(max_steps=400),
        lambda h: NystromPreconditioner.from_operator(h, rank=(h.shape[-1] + 3) // 4),
    ),
    "block-cg": Row(BlockConjugateGradient(max_steps=400)),
    "block-cg-jacobi": Row(BlockConjugateGradient(max_steps=400), JacobiPreconditioner.from_operator),
    "neumann": Row(Neumann(max_steps=300)),
    "neumann-jacobi": Row(Neumann(max_steps=300), JacobiPreconditioner.from_operator),
    "cholesky": Row(Cholesky()),
    "refinement": Row(Refinement(), dtypes=(torch.float64,)),
    "refinement-cg": Row(Refinement(inner=ConjugateGradient(rtol=1e-3)), dtypes=(torch.float64,)),
}
RTOL = {torch.float32: 2e-6, torch.float64: 1e-10}
EACH = pytest.mark.parametrize("name", SOLVERS)


def cases(dtypes=DTYPES):
    return [(name, dtype) for name, row in SOLVERS.items() for dtype in row.dtypes if dtype in dtypes]


TYPED = pytest.mark.parametrize(("name", "dtype"), cases(), ids=lambda value: str(value).removeprefix("torch."))


@TYPED
@pytest.mark.parametrize("p", [1, 17, 63])
@pytest.mark.parametrize("batch", [(), (0,), (1,), (3,)])
@pytest.mark.parametrize("several", [(), (4,)])
def test_solves_to_its_tolerance(name, dtype, p, batch, several):
    rtol = RTOL[dtype]
    matrix = spd(p, 5.0, batch, seed=p, dtype=dtype)
    rhs = normal(*several, *batch, p, seed=1, dtype=dtype)
    solution = SOLVERS[name].with_rtol(rtol).solve(MatrixOperator(matrix), rhs)
    assert solution.value.shape == rhs.shape
    assert solution.value.dtype == dtype
    assert solution.status.shape == solution.residual_norms.shape == solution.steps.shape == rhs.shape[:-1]
    assert solution.status.dtype == torch.int8
    assert_solved(matrix, rhs, solution, rtol, smallest=0.2)


@TYPED
def test_solves_a_thousand_unknowns(name, dtype):
    rtol = 10 * RTOL[dtype]
    matrix, rhs = spd(1000, 5.0, decay="linear", dtype=dtype), normal(1000, seed=1, dtype=dtype)
    assert_solved(matrix, rhs, SOLVERS[name].with_rtol(rtol).solve(MatrixOperator(matrix), rhs), rtol, smallest=0.2)


@TYPED
def test_strides_do_not_matter(name, dtype):
    row = SOLVERS[name].with_rtol(RTOL[dtype])
    matrix, rhs = spd(17, 5.0, (3,), dtype=dtype), normal(4, 3, 17, dtype=dtype)
    wide = normal(3, 34, 17, dtype=dtype)
    wide[:, ::2] = matrix
    strided = rhs.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not strided.is_contiguous()
    solution = row.solve(MatrixOperator(wide[:, ::2]), strided)
    assert_solved(matrix, rhs, solution, RTOL[dtype], smallest=0.2)
    expanded = row.solve(MatrixOperator(matrix), rhs[:1].expand(4, 3, 17))
    assert_solved(matrix, rhs[:1].expand(4, 3, 17), expanded, RTOL[dtype], smallest=0.2)


@TYPED
def test_repeats_are_bitwise_equal(name, dtype):
    row, operator = SOLVERS[name], MatrixOperator(spd(63, 5.0, (3,), dtype=dtype))
    rhs = normal(2, 3, 63, dtype=dtype)
    first, second = row.solve(operator, rhs), row.solve(operator, rhs)
    assert torch.equal(first.value, second.value)
    assert torch.equal(first.residual_norms, second.residual_norms)
    assert torch.equal(first.steps, second.steps)


@TYPED
@pytest.mark.parametrize(("of_rhs", "of_matrix"), [(100, 0), (-100, 0), (0, 60), (0, -60), (-40, 60), (30, -60)])
def test_powers_of_two_change_no_digit(name, dtype, of_rhs, of_matrix):
    """2^100 is about 1e30: scaling the data scales the answer, and nothing else."""
    row = SOLVERS[name].with_rtol(RTOL[dtype])
    matrix, rhs = spd(17, 5.0, dtype=dtype), normal(17, dtype=dtype)
    plain = row.solve(MatrixOperator(matrix), rhs)
    scaled = row.solve(MatrixOperator(matrix * 2.0**of_matrix), rhs * 2.0**of_rhs)
    assert torch.equal(scaled.value, plain.value * 2.0 ** (of_rhs - of_matrix))
    assert torch.equal(scaled.steps, plain.steps)
    assert torch.equal(scaled.residual_norms, plain.residual_norms * 2.0**of_rhs)


@TYPED
@pytest.mark.parametrize(("of_rhs", "of_matrix"), [(1e30, 1.0), (1e-30, 1.0), (1.0, 1e30), (1.0, 1e-30)])
def test_solves_at_scales_of_1e30(name, dtype, of_rhs, of_matrix):
    row = SOLVERS[name].with_rtol(RTOL[dtype])
    matrix, rhs = spd(17, 5.0, dtype=dtype) * of_matrix, normal(17, dtype=dtype) * of_rhs
    assert_solved(matrix, rhs, row.solve(MatrixOperator(matrix), rhs), RTOL[dtype], smallest=0.2 * of_matrix)


@EACH
def test_a_zero_right_hand_side_has_the_zero_answer(name):
    operator, rhs = MatrixOperator(spd(17, 5.0)), normal(2, 17)
    rhs[0] = 0
    solution = SOLVERS[name].solve(operator, rhs, **({} if name == "cholesky" else {"initial": normal(2, 17, seed=2)}))
    assert statuses(solution) == {"CONVERGED"}
    assert torch.equal(solution.value[0], torch.zeros(17, dtype=torch.float64))
    assert solution.residual_norms[0] == 0
    assert solution.steps[0] == (1 if name == "cholesky" else 0)


@TYPED
def test_condition_number_1e8_is_never_claimed_falsely(name, dtype):
    row = SOLVERS[name].with_rtol(1e-6)
    matrix, rhs = spd(63, 1e8, dtype=dtype), normal(63, dtype=dtype)
    solution = row.solve(MatrixOperator(matrix), rhs)
    # float32 may round the smallest eigenvalue, 1e-8, through zero; float64 does not.
    narrow = dtype == torch.float32 or "refinement" in name
    assert statuses(solution) <= {"CONVERGED", "MAX_STEPS", "STAGNATED"} | ({"INDEFINITE"} if narrow else set())
    if statuses(solution) == {"INDEFINITE"}:
        return
    actual = residual_norms(matrix, rhs, solution.value)
    assert bool((solution.residual_norms - actual).abs() <= rounding(matrix, rhs, solution.value))
    if statuses(solution) == {"CONVERGED"}:
        assert bool(solution.residual_norms <= 1e-6 * rhs.double().norm())


def failing(matrix=None, rhs=None):
    """Three systems of which the one in the middle is spoilt."""
    matrices, rhss = spd(17, 5.0, (3,)), normal(3, 17)
    if matrix is not None:
        matrices[1] = matrix(matrices[1])
    if rhs is not None:
        rhss[1, 4] = rhs
    return matrices, rhss


def entry(value):
    def change(matrix):
        changed = matrix.clone()
        changed[3, 5] = changed[5, 3] = value
        return changed

    return change


def one_negative(_):
    eigenvalues = torch.ones(17, dtype=torch.float64)
    eigenvalues[7] = -0.5
    return symmetric(eigenvalues)


FAILURES = {
    # name: (system, status in general, status by solver)
    "indefinite": (failing(matrix=one_negative), "INDEFINITE", {"neumann": "DIVERGED", "neumann-jacobi": "DIVERGED"}),
    # The Jacobi preconditioner of -A is negative too, so Neumann's series for it converges, to the right answer.
    "negative definite": (
        failing(matrix=lambda a: -a),
        "INDEFINITE",
        {"neumann": "DIVERGED", "neumann-jacobi": "CONVERGED"},
    ),
    "NaN in the matrix": (failing(matrix=entry(torch.nan)), "NONFINITE", {}),
    "infinity in the matrix": (failing(matrix=entry(torch.inf)), "NONFINITE", {}),
    "NaN on the right": (failing(rhs=torch.nan), "NONFINITE", {}),
    "infinity on the right": (failing(rhs=-torch.inf), "NONFINITE", {}),
}


@EACH
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_a_status_and_stays_with_its_problem(name, failure):
    (matrix, rhs), general, special = FAILURES[failure]
    row, expected = SOLVERS[name], special.get(name, general)
    solution = row.solve(MatrixOperator(matrix), rhs)
    names = [statuses(part) for part in (solution_at(solution, i) for i in range(3))]
    assert names == [{"CONVERGED"}, {expected}, {"CONVERGED"}]
    assert bool(solution.value[1].isnan().all()) == (expected != "CONVERGED")
    assert bool(solution.residual_norms[1].isnan()) == (expected != "CONVERGED")
    healthy = row.solve(MatrixOperator(spd(17, 5.0, (3,))), normal(3, 17))
    assert torch.equal(solution.value[[0, 2]], healthy.value[[0, 2]])
    assert torch.equal(solution.steps[[0, 2]], healthy.steps[[0, 2]])


def solution_at(solution, i):
    return replace(
        solution,
        value=solution.value[i],
        status=solution.status[i],
        residual_norms=solution.residual_norms[i],
        steps=solution.steps[i],
    )


@EACH
def test_atol_alone_is_enough(name):
    matrix, rhs = spd(17, 5.0), normal(17)
    row = SOLVERS[name].with_rtol(0.0)
    solution = replace(row, solver=replace(row.solver, atol=1e-3)).solve(MatrixOperator(matrix), rhs)
    assert statuses(solution) == {"CONVERGED"}
    assert bool(solution.residual_norms <= 1e-3)


@EACH
def test_nothing_is_recorded_and_autocast_is_off(name):
    matrix, rhs = spd(17, 5.0, dtype=torch.float64).requires_grad_(), normal(17).requires_grad_()
    assert not SOLVERS[name].solve(MatrixOperator(matrix), rhs).value.requires_grad
    if torch.float32 not in SOLVERS[name].dtypes:
        return
    matrix, rhs = spd(17, 5.0, dtype=torch.float32), normal(17, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = SOLVERS[name].solve(MatrixOperator(matrix), rhs)
    assert torch.equal(inside.value, SOLVERS[name].solve(MatrixOperator(matrix), rhs).value)


@EACH
@pytest.mark.parametrize(
    ("rhs", "message"),
    [
        (torch.ones(16, dtype=torch.float64), r"rhs must have shape \*k, \(17,\), got \(16,\)"),
        (torch.ones(17), r"rhs is torch.float32 .* operator torch.float64"),
    ],
)
def test_arguments_that_do_not_fit_are_named(name, rhs, message):
    with pytest.raises(DataError, match=message):
        SOLVERS[name].solve(MatrixOperator(spd(17, 5.0)), rhs)


@EACH
def test_a_first_iterate_of_another_shape_is_named(name):
    with pytest.raises(DataError, match=r"initial must have shape \(2, 17\), got \(17,\)"):
        SOLVERS[name].solve(MatrixOperator(spd(17, 5.0)), normal(2, 17), initial=normal(17))


@EACH
@pytest.mark.parametrize(("option", "value"), [("rtol", -1.0), ("atol", torch.nan), ("rtol", torch.inf)])
def test_options_out_of_range_are_named(name, option, value):
    with pytest.raises(DataError, match=f"{option} must be finite and >= 0, got {value}"):
        replace(SOLVERS[name].solver, **{option: value})


@pytest.mark.gpu
@TYPED
def test_solves_on_the_device(name, dtype):
    matrix, rhs = spd(63, 5.0, (3,), dtype=dtype), normal(4, 3, 63, dtype=dtype)
    rhs[1, 1] = 0
    solution = SOLVERS[name].with_rtol(RTOL[dtype]).solve(MatrixOperator(matrix.cuda()), rhs.cuda())
    fields = (solution.value, solution.status, solution.residual_norms, solution.steps)
    assert {field.device.type for field in fields} == {"cuda"}
    assert_solved(matrix, rhs, replace(solution, **on_cpu(solution)), RTOL[dtype], smallest=0.2)


def on_cpu(solution):
    return {name: getattr(solution, name).cpu() for name in ("value", "status", "residual_norms", "steps")}


@EACH
def test_half_precision_is_refused(name):
    with pytest.raises(DataError, match=r"float32 or float64, got torch.bfloat16"):
        SOLVERS[name].solver.solve(MatrixOperator(spd(17, 5.0, dtype=torch.bfloat16)), torch.ones(17).bfloat16())
