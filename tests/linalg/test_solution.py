"""What a Solution says when it is asked to raise."""

from __future__ import annotations

import pytest
import torch
from linalg.systems import normal, spd

from amu_fast.errors import AmuFastError, SolveError
from amu_fast.linalg import Cholesky, ConjugateGradient, LinearSolver, MatrixOperator, Neumann, Refinement, Solution
from amu_fast.status import Status


def made(codes, norms):
    status = torch.tensor(codes, dtype=torch.int8)
    return Solution(torch.zeros(len(codes), 2), status, torch.tensor(norms, dtype=torch.float64), status.long() * 10)


def test_a_converged_solution_is_handed_back():
    solution = ConjugateGradient().solve(MatrixOperator(spd(5, 3.0)), normal(4, 5))
    assert solution.raise_for_status() is solution
    nothing = ConjugateGradient().solve(MatrixOperator(spd(5, 3.0, (0,))), normal(0, 5))
    assert nothing.raise_for_status() is nothing


def test_the_error_counts_ranks_and_advises():
    solution = made([0, 1, 4, 1, 3], [1e-9, 1e-3, 5e-2, 2e-3, torch.nan])
    with pytest.raises(SolveError) as caught:
        solution.raise_for_status()
    message = str(caught.value)
    assert message.startswith("4 of 5 linear systems not solved: 2 MAX_STEPS, 1 NONFINITE, 1 STAGNATED; ")
    assert "worst true residual 5.000e-02 (problem 2 in flat order, after 40 steps)" in message
    for status in (Status.MAX_STEPS, Status.NONFINITE, Status.STAGNATED):
        assert f"{status.name}: {status.advice}" in message
    assert Status.INDEFINITE.advice not in message
    assert isinstance(caught.value, AmuFastError)
    assert isinstance(caught.value, RuntimeError)


def test_an_error_without_any_residual_says_so():
    with pytest.raises(SolveError, match=r"1 of 1 .* 1 NONFINITE; worst true residual nan"):
        made([3], [torch.nan]).raise_for_status()


@pytest.mark.parametrize("solver", [ConjugateGradient(), Neumann(), Cholesky(), Refinement()])
def test_all_are_linear_solvers(solver):
    assert isinstance(solver, LinearSolver)
