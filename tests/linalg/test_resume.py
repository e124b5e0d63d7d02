"""Interrupted solves: what the callback sees, and that going on is as if nothing had happened."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from linalg.systems import Counting, Questions, normal, residual_norms, spd, statuses

from amu_fast.errors import DataError
from amu_fast.linalg import (
    BlockConjugateGradient,
    ConjugateGradient,
    JacobiPreconditioner,
    MatrixOperator,
    Neumann,
)

SOLVERS = {
    "cg": ConjugateGradient(rtol=1e-9),
    "cg-refreshed": ConjugateGradient(rtol=1e-9, refresh_every=5),
    "block-cg": BlockConjugateGradient(rtol=1e-9),
    "neumann": Neumann(max_steps=200),
    "neumann-terms": Neumann(terms=40),
}
EACH = pytest.mark.parametrize("name", SOLVERS)


class StopAt:
    """Keeps every state and stops at one of them."""

    def __init__(self, step):
        self.step, self.state, self.seen = step, None, []

    def __call__(self, progress):
        self.seen.append((progress.steps, progress.residual_norms))
        if progress.steps == self.step:
            self.state = progress.state_dict()
            return "stop"
        return None


def same(a, b):
    fields = ("value", "status", "residual_norms", "steps")
    return all(torch.equal(getattr(a, f).nan_to_num(7.5), getattr(b, f).nan_to_num(7.5)) for f in fields)


@EACH
@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step", [0, 7])
def test_stopped_and_continued_is_uninterrupted(name, preconditioned, dtype, step):
    solver = replace(SOLVERS[name], rtol=1e-5) if dtype == torch.float32 else SOLVERS[name]
    matrices = torch.stack([spd(63, kappa, dtype=dtype) for kappa in (4.0, 30.0)])
    operator, rhs = MatrixOperator(matrices), normal(3, 2, 63, dtype=dtype)
    rhs[1, 0] = torch.nan
    hint = JacobiPreconditioner.from_operator(operator) if preconditioned else None
    whole = solver.solve(operator, rhs, preconditioner=hint)
    stop = StopAt(step)
    part = solver.solve(operator, rhs, preconditioner=hint, progress=stop)
    assert "MAX_STEPS" in statuses(part)
    assert stop.seen[-1][0] == step
    # through a file, as another process would
    file = io.BytesIO()
    torch.save(stop.state, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    continued = solver.solve(operator, rhs, preconditioner=hint, resume=state)
    assert same(continued, whole)
    # the state is the caller's: used once more, it says the same
    assert same(solver.solve(operator, rhs, preconditioner=hint, resume=state), whole)


@EACH
def test_a_solve_that_ran_out_of_steps_returns_its_iterate_with_its_true_residual(name):
    matrix, rhs = spd(63, 30.0), normal(3, 63)
    part = SOLVERS[name].solve(MatrixOperator(matrix), rhs, progress=StopAt(5))
    assert set(part.steps.tolist()) == {5}
    torch.testing.assert_close(part.residual_norms, residual_norms(matrix, rhs, part.value), rtol=1e-9, atol=1e-12)


@EACH
def test_watching_changes_no_bit_and_sees_the_residual_fall(name):
    operator, rhs = MatrixOperator(spd(63, 30.0)), normal(3, 63)
    watch = StopAt(-1)
    assert same(SOLVERS[name].solve(operator, rhs, progress=watch), SOLVERS[name].solve(operator, rhs))
    assert [steps for steps, _ in watch.seen[:4]] == [0, 1, 2, 3]
    assert bool((watch.seen[-1][1] < 0.5 * watch.seen[0][1]).all())
    torch.testing.assert_close(watch.seen[0][1], rhs.norm(dim=-1), rtol=0.9, atol=0)


def test_no_product_is_made_twice():
    counting, rhs = Counting(spd(63, 1e3)), normal(63)
    ConjugateGradient(refresh_every=50).solve(counting, rhs)
    whole, counting.products = counting.products, 0
    stop = StopAt(30)
    ConjugateGradient(refresh_every=50).solve(counting, rhs, progress=stop)
    ConjugateGradient(refresh_every=50).solve(counting, rhs, resume=stop.state)
    # one more: the true residual of the iterate that was returned
    assert counting.products == whole + 1


def test_more_steps_later_is_more_steps_at_once():
    operator, rhs = MatrixOperator(spd(63, 1e4)), normal(63)
    states = []
    short = ConjugateGradient(max_steps=20)
    short.solve(operator, rhs, progress=lambda progress: states.append(progress.state_dict()))
    continued = ConjugateGradient(max_steps=40).solve(operator, rhs, resume=states[-1])
    assert same(continued, ConjugateGradient(max_steps=40).solve(operator, rhs))


def test_the_callback_does_not_make_the_device_wait(monkeypatch):
    import amu_fast.linalg.cg

    monkeypatch.setattr(amu_fast.linalg.cg, "sync_interval", lambda device, check_every: check_every)
    solver, seen = ConjugateGradient(rtol=0.0, max_steps=50), []
    with Questions() as questions:
        solver.solve(MatrixOperator(spd(63, 1e8)), normal(63), progress=lambda p: seen.append(p.residual_norms))
    assert len(seen) == 5
    assert questions.count <= 6


def test_a_state_of_something_else_is_named():
    operator, rhs, stop = MatrixOperator(spd(63, 1e3)), normal(63), StopAt(7)
    ConjugateGradient().solve(operator, rhs, progress=stop)
    with pytest.raises(DataError, match="continue with the same right-hand sides"):
        ConjugateGradient().solve(operator, 2 * rhs, resume=stop.state)
    with pytest.raises(DataError, match=r"resume lacks \['size', 'q', 'c', 'kept'\]"):
        BlockConjugateGradient().solve(operator, rhs, resume=stop.state)
    with pytest.raises(DataError, match=r"resume lacks \['eta', 'best', 'best_step'\]"):
        Neumann().solve(operator, rhs, resume=stop.state)


@pytest.mark.parametrize("solver", [ConjugateGradient(check_every=None, max_steps=5), Neumann(check_every=None)])
def test_a_callback_that_is_never_called_is_refused(solver):
    with pytest.raises(DataError, match="check_every=None never looks at a solve"):
        solver.solve(MatrixOperator(spd(5, 3.0)), normal(5), progress=print)
