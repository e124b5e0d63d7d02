"""Faults that other libraries were seen to have, each turned into a test that we do not.

| library | fault | where it is tested |
|---|---|---|
| curvlinops | CG with defaults: 72 % error at condition number 1e4, silent | here |
| linear_cg | stops on the mean residual; stalls at eigenvalues of 1e-8; wrong answer on indefinite matrices | here |
| TorchOpt | NaN products become zeros; garbage at a right-hand side of 1e-25; block-diagonal on a tree | here |
| TorchOpt | its compiled part does not load, silently | tests/ops (a compiled part that is broken raises) |
| lineax, jaxopt | NaN becomes zeros, "successful" | here |
| hypertorch | absolute tolerance; returns the iterate before the converged one | here |
| Betty | a scale parameter without which the answer is wrong | here |
| dattri | ignores its tolerance; NaN | here |
| CoLA | a warm start saves nothing | here |
| diffcp | batches by threads | here |
| cvxpylayers | default gradient off by 15 % on a small SVM | tests/audit (an oracle at tight tolerance only) |
| PyTorch | attention, batch-norm and FSDP2 break second-order products | with the operators of networks |
| PyTorch | products in bf16 can be noise | here (solvers refuse bf16 and switch autocast off) |
"""

from __future__ import annotations

import math

import pytest
import torch
from linalg.systems import Counting, assert_solved, normal, residual_norms, spd, statuses, symmetric

from amu_fast.errors import DataError, SolveError
from amu_fast.linalg import Cholesky, ConjugateGradient, MatrixOperator, Neumann, Refinement

ITERATIVE = pytest.mark.parametrize("solver", [ConjugateGradient(), Neumann(), Refinement()])
ALL = pytest.mark.parametrize("solver", [ConjugateGradient(), Neumann(), Cholesky(), Refinement()])


def relative_error(matrix, rhs, value):
    exact = torch.linalg.solve(matrix, rhs)
    return float((value - exact).norm() / exact.norm())


def test_curvlinops_default_accuracy_at_condition_number_1e4():
    matrix, rhs = spd(300, 1e4), normal(300)
    solution = ConjugateGradient().solve(MatrixOperator(matrix), rhs).raise_for_status()
    assert relative_error(matrix, rhs, solution.value) < 1e-4
    # Too few steps give an answer as bad as the peer's, but not in silence.
    early = ConjugateGradient(max_steps=20).solve(MatrixOperator(matrix), rhs)
    assert relative_error(matrix, rhs, early.value) > 0.5
    with pytest.raises(SolveError, match="1 MAX_STEPS; worst true residual"):
        early.raise_for_status()


@pytest.mark.parametrize("solver", [ConjugateGradient(), Neumann()])
def test_linear_cg_mean_residual_stop(solver):
    """One hard problem among 99 trivial ones: their mean residual is small long before its own is."""
    matrices, rhs = torch.eye(17, dtype=torch.float64).repeat(100, 1, 1), normal(100, 17)
    matrices[63] = spd(17, 20.0)
    solution = solver.solve(MatrixOperator(matrices), rhs)
    assert_solved(matrices, rhs, solution, solver.rtol, smallest=torch.where(torch.arange(100) == 63, 0.05, 1.0))
    assert int(solution.steps[63]) > int(solution.steps.median())


@ALL
def test_linear_cg_eigenvalues_scaled_by_1e_minus_8(solver):
    matrix, rhs = spd(17, 10.0), normal(17)
    plain, scaled = (solver.solve(MatrixOperator(matrix * s), rhs) for s in (1.0, 2.0**-26))
    assert torch.equal(scaled.value, plain.value * 2.0**26)
    assert torch.equal(scaled.steps, plain.steps)
    assert_solved(matrix * 1e-8, rhs, solver.solve(MatrixOperator(matrix * 1e-8), rhs), solver.rtol, smallest=1e-9)


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        (ConjugateGradient(), "INDEFINITE"),
        (Cholesky(), "INDEFINITE"),
        (Refinement(), "INDEFINITE"),
        (Neumann(), "DIVERGED"),
    ],
)
def test_linear_cg_answer_on_an_indefinite_matrix(solver, name):
    eigenvalues = torch.tensor([*[1.0] * 10, *[0.3] * 6, -0.2], dtype=torch.float64)
    solution = solver.solve(MatrixOperator(symmetric(eigenvalues)), normal(17))
    assert statuses(solution) == {name}
    assert bool(solution.value.isnan().all())
    with pytest.raises(SolveError, match=f"1 of 1 linear systems not solved: 1 {name}"):
        solution.raise_for_status()


@ALL
@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf])
def test_torchopt_lineax_and_jaxopt_nan_becomes_zeros(solver, spoilt):
    matrix = spd(17, 5.0, (2,))
    matrix[1, 2, 2] = spoilt
    solution = solver.solve(MatrixOperator(matrix), normal(2, 17))
    assert solution.status.tolist() == [0, 3]
    assert bool(solution.value[1].isnan().all())
    with pytest.raises(SolveError, match="1 of 2 linear systems not solved: 1 NONFINITE"):
        solution.raise_for_status()


@ALL
@pytest.mark.parametrize("size", [1e-25, 1e-150])
def test_torchopt_right_hand_side_of_1e_minus_25(solver, size):
    """1e-150 squared is below the smallest float64, too."""
    matrix, rhs = spd(17, 5.0), normal(17)
    solution = solver.solve(MatrixOperator(matrix), rhs * size)
    assert statuses(solution) == {"CONVERGED"}
    assert relative_error(matrix, rhs, solution.value / size) <= 5 * solver.rtol


@ALL
def test_torchopt_block_diagonal_answer(solver):
    """Two parameter tensors on one flat vector: the coupling between them is part of the answer."""
    a, b, coupling = spd(9, 3.0), spd(8, 3.0, seed=1), 0.25 * normal(9, 8) / 5
    matrix, rhs = torch.cat([torch.cat([a, coupling], 1), torch.cat([coupling.mT, b], 1)]), normal(17)
    smallest = float(torch.linalg.eigvalsh(matrix).min())
    assert smallest > 0.1
    solution = solver.solve(MatrixOperator(matrix), rhs)
    assert_solved(matrix, rhs, solution, solver.rtol, smallest)
    apart = torch.cat([torch.linalg.solve(a, rhs[:9]), torch.linalg.solve(b, rhs[9:])])
    assert float((solution.value - apart).norm() / apart.norm()) > 0.05


@ITERATIVE
def test_hypertorch_absolute_tolerance(solver):
    """A small right-hand side is solved as well as a large one, in the same steps."""
    operator, rhs = MatrixOperator(spd(17, 5.0)), normal(17)
    large, small = solver.solve(operator, rhs * 2.0**20), solver.solve(operator, rhs * 2.0**-40)
    assert torch.equal(large.value * 2.0**-60, small.value)
    assert int(large.steps) == int(small.steps) > 0


@ALL
def test_hypertorch_the_iterate_before_the_converged_one(solver):
    """The value that is returned is the one whose residual is reported."""
    matrix, rhs = spd(17, 5.0), normal(17)
    solution = solver.solve(MatrixOperator(matrix), rhs)
    recomputed = residual_norms(matrix, rhs, solution.value)
    assert float(solution.residual_norms) == pytest.approx(float(recomputed), rel=1e-3, abs=1e-14)
    assert float(recomputed) <= solver.rtol * float(rhs.norm())


@ALL
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_betty_scale_parameter(solver, scale):
    """<H u, v> = <v, v>: the answer has the right length whatever the scale of H, and no option sets it."""
    matrix, rhs = spd(17, 5.0) * scale, normal(17)
    value = solver.solve(MatrixOperator(matrix), rhs).value
    assert float((matrix @ value) @ rhs / (rhs @ rhs)) == pytest.approx(1.0, abs=2 * solver.rtol)


@pytest.mark.parametrize("make", [ConjugateGradient, lambda rtol: Neumann(rtol=rtol, max_steps=5000)])
def test_dattri_ignored_tolerance(make):
    matrix, rhs = spd(63, 20.0), normal(63)
    steps = []
    for rtol in (1e-1, 1e-3, 1e-6, 1e-9):
        solution = make(rtol=rtol).solve(MatrixOperator(matrix), rhs)
        assert_solved(matrix, rhs, solution, rtol, smallest=0.05)
        steps.append(int(solution.steps))
    assert steps[0] < steps[1] < steps[2] < steps[3]


@ITERATIVE
def test_cola_warm_start(solver):
    operator, rhs = MatrixOperator(spd(63, 20.0)), normal(63)
    cold = solver.solve(operator, rhs)
    near = cold.value * (1 + 1e-5 * normal(63, seed=5))
    assert 0 < int(solver.solve(operator, rhs, initial=near).steps) < int(cold.steps)
    assert int(solver.solve(operator, rhs, initial=cold.value).steps) == 0


def test_diffcp_batches_by_threads():
    """A batch costs the products of its slowest problem, each product for all problems at once."""
    products = []
    for batch in (1, 64):
        counting = Counting(spd(17, 5.0).repeat(batch, 1, 1))
        ConjugateGradient().solve(counting, normal(17).repeat(batch, 1))
        products.append(counting.products)
    assert abs(products[1] - products[0]) <= 1


@ALL
def test_pytorch_bf16_products_do_not_enter(solver):
    matrix, rhs = spd(17, 5.0, dtype=torch.bfloat16), normal(17, dtype=torch.bfloat16)
    with pytest.raises(DataError, match=r"solvers work in float32 or float64, got torch.bfloat16"):
        solver.solve(MatrixOperator(matrix), rhs)
    matrix, rhs = spd(17, 10.0, dtype=torch.float32), normal(17, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = solver.solve(MatrixOperator(matrix), rhs)
    assert inside.value.dtype == torch.float32
    assert not math.isnan(float(inside.residual_norms))
    assert torch.equal(inside.value, solver.solve(MatrixOperator(matrix), rhs).value)
