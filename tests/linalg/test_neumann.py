"""The Neumann series: its factor, its error, its step size, and its divergence."""

from __future__ import annotations

import pytest
import torch
from linalg.systems import assert_solved, normal, residual_norms, spd, spectrum, statuses, symmetric

from amu_fast.errors import DataError
from amu_fast.linalg import JacobiPreconditioner, MatrixOperator, Neumann, largest_eigenvalue
from amu_fast.status import Status


@pytest.mark.parametrize("terms", [1, 2, 5, 30])
def test_terms_sum_the_series_with_its_factor(terms):
    """u = eta sum_{k < terms} (I - eta H)^k v, not the sum alone."""
    matrix, rhs, eta = spd(17, 5.0, (3,)), normal(2, 3, 17), 0.8
    solution = Neumann(terms=terms, step_size=eta).solve(MatrixOperator(matrix), rhs)
    contraction = torch.eye(17, dtype=torch.float64) - eta * matrix
    total, power = torch.zeros_like(rhs), rhs
    for _ in range(terms):
        total, power = total + eta * power, (contraction @ power[..., None])[..., 0]
    torch.testing.assert_close(solution.value, total, rtol=1e-13, atol=1e-13)
    assert set(solution.steps.flatten().tolist()) == {terms - 1}
    torch.testing.assert_close(solution.residual_norms, residual_norms(matrix, rhs, total), rtol=1e-9, atol=1e-13)


def test_a_fixed_number_of_terms_says_whether_the_tolerance_was_met():
    operator, rhs = MatrixOperator(spd(17, 5.0)), normal(17)
    assert statuses(Neumann(terms=5).solve(operator, rhs)) == {"MAX_STEPS"}
    assert statuses(Neumann(terms=5, rtol=0.9).solve(operator, rhs)) == {"CONVERGED"}
    assert statuses(Neumann(terms=200).solve(operator, rhs)) == {"CONVERGED"}
    assert statuses(Neumann(terms=200, step_size=2.5).solve(operator, rhs)) == {"DIVERGED"}


@pytest.mark.parametrize("share", [0.3, 1.0, 1.9])
@pytest.mark.parametrize("kappa", [3.0, 100.0])
def test_the_error_obeys_its_bound(share, kappa):
    """||u_t - u|| <= rho^{t+1} ||u||, rho = max(|1 - eta l_min|, |1 - eta l_max|); l_max = 1."""
    matrix, rhs = spd(17, kappa), normal(17)
    exact = torch.linalg.solve(matrix, rhs)
    rho = max(abs(1 - share / kappa), abs(1 - share))
    for terms in (1, 2, 3, 10, 100):
        solution = Neumann(terms=terms, step_size=share).solve(MatrixOperator(matrix), rhs)
        assert float((solution.value - exact).norm()) <= (rho**terms + 1e-13) * float(exact.norm())


def test_the_sum_tends_to_the_inverse():
    matrix, rhs = spd(17, 20.0, (3,)), normal(3, 17)
    for eta in (0.5, 1.5):
        solution = Neumann(step_size=eta, rtol=1e-12, max_steps=2000).solve(MatrixOperator(matrix), rhs)
        assert_solved(matrix, rhs, solution, 1e-12, smallest=1 / 20)


SPECTRA = {
    "two equal at the top": torch.tensor([1.0, 1.0, *[0.1] * 60], dtype=torch.float64),
    "a cluster at the top": torch.linspace(0.9, 1.0, 62, dtype=torch.float64),
    "a long decay": spectrum(62, 1e6),
    "one outlier": torch.tensor([1.0, *[1e-3] * 61], dtype=torch.float64),
    "linear": torch.linspace(0.01, 1.0, 62, dtype=torch.float64),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_estimate_is_from_below_and_its_step_size_is_safe(name, dtype):
    matrix = (
        symmetric(SPECTRA[name], (5,), seed=3, dtype=dtype) * torch.logspace(-30, 30, 5, dtype=dtype)[:, None, None]
    )
    operator, top = MatrixOperator(matrix), torch.logspace(-30, 30, 5, dtype=torch.float64)
    estimate = largest_eigenvalue(operator)
    assert bool((estimate <= top * (1 + 1e-5)).all())
    assert bool((estimate >= 0.7 * top).all())
    assert not {"DIVERGED", "NONFINITE"} & statuses(Neumann(max_steps=200).solve(operator, normal(5, 62, dtype=dtype)))


def test_more_power_steps_come_closer():
    operator = MatrixOperator(symmetric(SPECTRA["linear"]))
    estimates = [float(largest_eigenvalue(operator, steps=steps)) for steps in (1, 3, 10, 100)]
    assert estimates == sorted(estimates)
    assert estimates[-1] == pytest.approx(1.0, abs=1e-2)


def test_an_estimate_far_too_small_ends_as_diverged_and_not_as_an_answer():
    """One product with a random vector sees the root mean square of the eigenvalues: here l_max/8."""
    operator, rhs = MatrixOperator(symmetric(SPECTRA["one outlier"])), normal(62)
    assert float(largest_eigenvalue(operator, steps=1)) < 0.4
    solution = Neumann(power_steps=1).solve(operator, rhs)
    assert statuses(solution) == {"DIVERGED"}
    assert bool(solution.value.isnan().all())


@pytest.mark.parametrize("share", [2.001, 2.01, 2.5, 1e3, 1e30])
def test_a_step_size_above_two_over_l_max_is_diverged(share):
    matrices = torch.stack([spd(17, 5.0), spd(17, 5.0) / share])
    solution = Neumann(step_size=share).solve(MatrixOperator(matrices), normal(2, 17))
    assert solution.status.tolist() == [Status.DIVERGED, Status.CONVERGED]
    assert bool(solution.value[0].isnan().all())
    assert bool(solution.value[1].isfinite().all())


def test_rounding_is_stagnation_not_divergence():
    matrix, rhs = spd(17, 5.0), normal(17)
    solution = Neumann(rtol=0.0).solve(MatrixOperator(matrix), rhs)
    assert statuses(solution) == {"STAGNATED"}
    assert float(solution.residual_norms) <= 1e-14 * float(rhs.norm())


def test_slow_is_neither():
    solution = Neumann(max_steps=500).solve(MatrixOperator(spd(63, 1e6)), normal(63))
    assert statuses(solution) == {"MAX_STEPS"}
    assert int(solution.steps) == 500
    # In float32 a residual that falls by 1e-9 in each step does not move at all; that is not divergence.
    frozen = MatrixOperator(torch.diag(torch.tensor([1.0, 1e-9])))
    assert statuses(Neumann(max_steps=500).solve(frozen, torch.tensor([0.0, 1.0]))) == {"MAX_STEPS"}


def test_a_warm_start_saves_steps():
    matrix, rhs = spd(17, 20.0), normal(17)
    cold = Neumann().solve(MatrixOperator(matrix), rhs)
    warm = Neumann().solve(MatrixOperator(matrix), rhs, initial=torch.linalg.solve(matrix, rhs) * (1 + 1e-3))
    assert int(warm.steps) < int(cold.steps)
    assert_solved(matrix, rhs, warm, 1e-6, smallest=1 / 20)


def test_a_preconditioner_undoes_bad_scaling():
    d = torch.logspace(0, 3, 17, dtype=torch.float64)
    matrix, rhs = d[:, None] * spd(17, 3.0) * d, normal(17)
    operator = MatrixOperator(matrix)
    plain = Neumann(max_steps=300).solve(operator, rhs)
    helped = Neumann(max_steps=300).solve(operator, rhs, preconditioner=JacobiPreconditioner.from_operator(operator))
    assert statuses(plain) == {"MAX_STEPS"}
    assert statuses(helped) == {"CONVERGED"}


def test_a_zero_operator_has_no_answer():
    solution = Neumann().solve(MatrixOperator(torch.zeros(3, 3, dtype=torch.float64)), torch.ones(3).double())
    assert statuses(solution) == {"NONFINITE"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size must be > 0, got 0.0"),
        ({"step_size": float("nan")}, "step_size must be > 0, got nan"),
        ({"safety": 0.5}, "safety must be >= 1, got 0.5"),
        ({"terms": 0}, "terms must be >= 1, got 0"),
        ({"power_steps": 0}, "power_steps must be >= 1, got 0"),
        ({"max_steps": 0}, "max_steps must be >= 1, got 0"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(DataError, match=message):
        Neumann(**options)


def test_terms_and_a_first_iterate_exclude_each_other():
    with pytest.raises(DataError, match="terms=5 sums a series from zero; drop initial"):
        Neumann(terms=5).solve(MatrixOperator(spd(3, 2.0)), normal(3), initial=normal(3))
