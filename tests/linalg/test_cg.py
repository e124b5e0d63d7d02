"""Conjugate gradients: the error bound, the lies of its recurrence, and when it stops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linalg.systems import (
    Counting,
    Questions,
    assert_solved,
    normal,
    residual_norms,
    rounding,
    spd,
    statuses,
    symmetric,
)

import amu_fast.linalg.cg
import amu_fast.linalg.neumann
from amu_fast.bench.memory import peak
from amu_fast.errors import DataError
from amu_fast.linalg import (
    Cholesky,
    ConjugateGradient,
    DampedOperator,
    GlmHessian,
    MatrixOperator,
    Neumann,
    NystromPreconditioner,
    Refinement,
    to_dense,
)
from amu_fast.status import Status


@pytest.mark.parametrize("kappa", [4.0, 100.0, 1e4])
@pytest.mark.parametrize("decay", ["log", "linear"])
def test_the_energy_error_obeys_its_bound_in_every_step(kappa, decay):
    """||u_t - u||_H <= 2 ((sqrt(k) - 1)/(sqrt(k) + 1))^t ||u||_H."""
    matrix, rhs = spd(63, kappa, decay=decay), normal(63)
    exact = torch.linalg.solve(matrix, rhs)

    def energy(e):
        return float((e @ matrix @ e).sqrt())

    rate = (kappa**0.5 - 1) / (kappa**0.5 + 1)
    for t in range(1, 60, 3):
        solution = ConjugateGradient(rtol=0.0, max_steps=t).solve(MatrixOperator(matrix), rhs)
        error = energy(solution.value - exact)
        assert error <= 2 * rate**t * energy(exact) + 1e-12 * energy(exact)


def test_damping_is_part_of_the_condition_number():
    matrix, rhs = spd(63, 1e6), normal(63)
    plain = ConjugateGradient(max_steps=10_000).solve(MatrixOperator(matrix), rhs)
    damped = ConjugateGradient().solve(DampedOperator(MatrixOperator(matrix), 0.1), rhs)
    assert statuses(plain) == statuses(damped) == {"CONVERGED"}
    assert int(damped.steps) < int(plain.steps) / 4
    # The residual of a damped solve is that of the damped system; the undamped one is another number.
    shifted = matrix + 0.1 * torch.eye(63, dtype=torch.float64)
    assert float(damped.residual_norms) == pytest.approx(float(residual_norms(shifted, rhs, damped.value)), rel=1e-6)
    assert float(residual_norms(matrix, rhs, damped.value)) > 1e3 * float(damped.residual_norms)


def textbook(matrix, rhs, rtol, steps):
    """Conjugate gradients as printed; returns the residual norm that its recurrence claims, and the iterate."""
    x, r = torch.zeros_like(rhs), rhs.clone()
    p, rr = r.clone(), r @ r
    for _ in range(steps):
        hp = matrix @ p
        alpha = rr / (p @ hp)
        x, r = x + alpha * p, r - alpha * hp
        rr, old = r @ r, rr
        if rr.sqrt() <= rtol * rhs.norm():
            break
        p = r + (rr / old) * p
    return float(rr.sqrt()), x


def test_a_convergence_that_only_the_recurrence_believes_in_is_not_reported():
    matrix, rhs = spd(300, 1e4, dtype=torch.float32), normal(300, dtype=torch.float32)
    claimed, iterate = textbook(matrix, rhs, 1e-6, 3000)
    assert claimed <= 1e-6 * float(rhs.norm())
    assert float(residual_norms(matrix, rhs, iterate)) > 1e-4 * float(rhs.norm())
    solution = ConjugateGradient().solve(MatrixOperator(matrix), rhs)
    assert statuses(solution) == {"STAGNATED"}
    actual = residual_norms(matrix, rhs, solution.value)
    assert bool((solution.residual_norms - actual).abs() <= rounding(matrix, rhs, solution.value))
    # It stops where rounding stops it, (some) eps ||A|| ||u||, and does not wander off afterwards.
    assert float(actual) <= 8 * torch.finfo(torch.float32).eps * float(solution.value.norm())


@pytest.mark.parametrize("refresh_every", [5, 50, 10_000])
def test_looking_at_the_true_residual_does_not_disturb_the_iteration(refresh_every):
    matrix, rhs = spd(300, 1e4), normal(300)
    solver = ConjugateGradient(refresh_every=refresh_every)
    solution = solver.solve(MatrixOperator(matrix), rhs)
    assert torch.equal(solution.value, ConjugateGradient().solve(MatrixOperator(matrix), rhs).value)
    assert statuses(solution) == {"CONVERGED"}


def test_small_refreshes_reach_what_rounding_allows_in_float32():
    matrix, rhs = spd(1000, 1e4, dtype=torch.float32), normal(1000, dtype=torch.float32)
    solution = ConjugateGradient(max_steps=3000).solve(MatrixOperator(matrix), rhs)
    assert statuses(solution) == {"STAGNATED"}
    assert float(solution.residual_norms) <= 1e-3 * float(rhs.norm())


def test_a_restart_sums_corrections_so_that_the_answer_is_rounded_once():
    """float32 beyond what it resolves: the residual of the exact answer rounded to float32, within a small factor.

    Adding to the iterate itself to the end leaves 18 times that on these systems.
    """
    ratios = []
    for seed in range(8):
        x = normal(1000, 200, seed=seed) * torch.arange(1, 201).double().reciprocal()
        x = (x @ torch.linalg.qr(normal(200, 200, seed=7)).Q).float()
        h = GlmHessian(x, (normal(1000, seed=seed + 1).abs() / 1000).float(), 1e-5, intercept=False)
        rhs = x.T @ (h.c * normal(1000, seed=seed + 2, dtype=torch.float32))
        m = NystromPreconditioner.from_operator(h, 20)
        solution = ConjugateGradient(rtol=0.0, max_steps=3000).solve(h, rhs, preconditioner=m)
        assert statuses(solution) == {"STAGNATED"}
        matrix = to_dense(GlmHessian(x.double(), h.c.double(), 1e-5, intercept=False))
        exact = torch.linalg.solve(matrix, rhs.double())
        ratios.append(float(residual_norms(matrix, rhs, solution.value) / residual_norms(matrix, rhs, exact.float())))
    assert sum(ratios) / len(ratios) <= 4


def test_problems_stop_one_by_one_and_then_do_not_change():
    matrices = torch.stack([spd(63, kappa) for kappa in (2.0, 10.0, 1e4)])
    rhs, operator = normal(3, 63), MatrixOperator(matrices)
    solution = ConjugateGradient().solve(operator, rhs)
    assert_solved(matrices, rhs, solution, 1e-6, smallest=torch.tensor([0.5, 0.1, 1e-4]))
    steps = solution.steps.tolist()
    assert steps[0] < steps[1] < steps[2]
    for i in (0, 1):
        early = ConjugateGradient(max_steps=steps[i]).solve(operator, rhs)
        assert torch.equal(early.value[: i + 1], solution.value[: i + 1])
        assert not torch.equal(early.value[i + 1], solution.value[i + 1])
    # Company does not change when a problem stops (sums in another order shift ill-conditioned ones by a few steps).
    for i, slack in enumerate((1, 2, 20)):
        alone = ConjugateGradient().solve(MatrixOperator(matrices[i]), rhs[i])
        assert abs(int(alone.steps) - steps[i]) <= slack


@pytest.mark.parametrize(("seed", "rtol"), [(3, 1.5e-5), (3, 1e-5), (4, 2e-5), (4, 7e-6), (5, 2e-5), (6, 7e-6)])
def test_a_claim_refuted_by_a_hair_goes_on_where_it_paused(seed, rtol):
    """Near what float32 can resolve, beside a problem that keeps the iteration going for long."""
    matrices = torch.stack([spd(63, 300.0, seed=seed), spd(63, 1e8, seed=99)]).float()
    rhs = normal(63, seed=seed + 50, dtype=torch.float32).repeat(2, 1)
    solution = ConjugateGradient(rtol=rtol, max_steps=400).solve(MatrixOperator(matrices), rhs)
    assert solution.status[0] in (Status.CONVERGED, Status.STAGNATED)
    assert int(solution.steps[0]) < 100


def test_steps_end_where_they_should():
    matrix, rhs = spd(17, 1e6), normal(17)
    solution = ConjugateGradient(rtol=1e-14, max_steps=7).solve(MatrixOperator(matrix), rhs)
    assert statuses(solution) == {"MAX_STEPS"}
    assert int(solution.steps) == 7
    assert float(solution.residual_norms) == pytest.approx(float(residual_norms(matrix, rhs, solution.value)))
    by_default = ConjugateGradient(rtol=0.0).solve(MatrixOperator(spd(17, 1e8)), rhs)
    assert int(by_default.steps) <= 170


def test_an_answer_that_float32_cannot_hold_is_not_converged():
    one = torch.ones(3, dtype=torch.float32)
    too_large = ConjugateGradient().solve(MatrixOperator(torch.diag(one * 1e-30)), one * 1e20)
    assert statuses(too_large) == {"NONFINITE"}
    too_small = ConjugateGradient().solve(MatrixOperator(torch.diag(one * 1e30)), one * 1e-25)
    assert statuses(too_small) <= {"STAGNATED", "MAX_STEPS"}
    assert bool((too_small.residual_norms > 1e-6 * (one * 1e-25).double().norm()).all())


def test_a_warm_start_saves_steps_and_a_solution_needs_none():
    matrix, rhs = spd(63, 1e4), normal(63)
    operator, solver = MatrixOperator(matrix), ConjugateGradient()
    cold = solver.solve(operator, rhs)
    near = torch.linalg.solve(matrix, rhs) * (1 + 1e-4 * normal(63, seed=5))
    warm = solver.solve(operator, rhs, initial=near)
    assert_solved(matrix, rhs, warm, 1e-6, smallest=1e-4)
    assert int(warm.steps) < int(cold.steps)
    again = solver.solve(operator, rhs, initial=cold.value)
    assert int(again.steps) == 0
    assert torch.equal(again.value, cold.value)


def test_a_preconditioner_that_is_not_positive_definite_is_indefinite():
    a = MatrixOperator(spd(17, 10.0))
    solution = ConjugateGradient().solve(a, normal(17), preconditioner=MatrixOperator(-torch.eye(17).double()))
    assert statuses(solution) == {"INDEFINITE"}


def test_a_perfect_preconditioner_needs_one_step():
    matrix, rhs = spd(63, 1e4, (3,)), normal(2, 3, 63)
    perfect = Cholesky().factor(MatrixOperator(matrix))
    solution = ConjugateGradient(rtol=1e-9).solve(MatrixOperator(matrix), rhs, preconditioner=perfect)
    assert_solved(matrix, rhs, solution, 1e-9, smallest=1e-4)
    assert int(solution.steps.max()) == 1


def test_products_are_steps_plus_one_look_every_refresh():
    matrix, rhs = spd(63, 1e4), normal(63)
    counting = Counting(matrix)
    steps = int(ConjugateGradient(refresh_every=50).solve(counting, rhs).steps)
    assert counting.products == steps + -(-steps // 50)


@pytest.mark.parametrize(
    ("solver", "module"),
    [
        (ConjugateGradient(rtol=0.0, max_steps=50), amu_fast.linalg.cg),
        (Neumann(terms=51), amu_fast.linalg.neumann),
    ],
)
def test_the_device_is_asked_once_every_check_every_steps(solver, module, monkeypatch):
    monkeypatch.setattr(module, "sync_interval", lambda device, check_every: check_every)
    operator, rhs = MatrixOperator(spd(63, 1e8)), normal(2, 63)
    with Questions() as questions:
        solution = replace(solver, check_every=10).solve(operator, rhs)
    assert int(solution.steps.max()) == 50
    # 50/10, and for CG one more: is anything open?
    assert questions.count <= 6


def test_checking_rarely_changes_no_bit(monkeypatch):
    operator, rhs = MatrixOperator(spd(63, 1e3, (3,))), normal(3, 63)
    often = ConjugateGradient().solve(operator, rhs)
    monkeypatch.setattr(amu_fast.linalg.cg, "sync_interval", lambda device, check_every: check_every)
    rarely = ConjugateGradient(check_every=17).solve(operator, rhs)
    assert torch.equal(often.value, rarely.value)
    assert torch.equal(often.steps, rarely.steps)


@pytest.mark.parametrize("option", ["max_steps", "refresh_every", "check_every"])
def test_counts_must_be_positive(option):
    with pytest.raises(DataError, match=f"ConjugateGradient: {option} must be >= 1, got 0"):
        ConjugateGradient(**{option: 0})


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    eigenvalues=st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=6),
    exponent=st.integers(-12, 12),
    seed=st.integers(0, 1000),
    spoilt=st.sampled_from([None, float("nan"), float("inf")]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    solver=st.sampled_from([ConjugateGradient(), Neumann(max_steps=50), Cholesky(), Refinement()]),
)
def test_no_solver_claims_what_is_not_so(eigenvalues, exponent, seed, spoilt, dtype, solver):
    """Whatever the matrix: CONVERGED means the residual is small, NaN means there is no answer, never zeros."""
    matrix = (symmetric(torch.tensor(eigenvalues, dtype=torch.float64), seed=seed) * 10.0**exponent).to(dtype)
    if spoilt is not None:
        matrix[-1, -1] = spoilt
    rhs = normal(len(eigenvalues), seed=seed, dtype=dtype)
    solution = solver.solve(MatrixOperator(matrix), rhs)
    (status,) = statuses(solution)
    assert bool(solution.value.isfinite().all()) == (status in {"CONVERGED", "MAX_STEPS", "STAGNATED"})
    assert spoilt is None or status == "NONFINITE"
    if status == "CONVERGED":
        slack = rounding(matrix, rhs, solution.value)
        assert bool(residual_norms(matrix, rhs, solution.value) <= solver.rtol * rhs.double().norm() + slack)


@pytest.mark.parametrize(("initial", "vectors"), [(None, 10), (torch.ones(50_000), 11)])
def test_it_holds_no_vector_that_it_does_not_need(initial, vectors):
    """Iterate, residual and direction between products; the rest is taken for a moment, to know the true residual."""
    rhs, weights = torch.linspace(-1.0, 1.0, 50_000), torch.linspace(1.0, 5.0, 50_000)

    class Diagonal:
        shape, dtype, device = torch.Size((50_000, 50_000)), rhs.dtype, rhs.device

        def matvec(self, v):
            return v * weights

    def solve():
        ConjugateGradient(rtol=0.0, max_steps=4).solve(Diagonal(), rhs, initial=initial)

    solve()
    assert peak(solve, rhs.device) < (vectors + 0.5) * rhs.nbytes
