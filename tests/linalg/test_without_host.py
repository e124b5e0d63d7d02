"""Solves that never ask the device: `check_every=None`, under the compiler and in a CUDA graph."""

from __future__ import annotations

from dataclasses import astuple, replace

import pytest
import torch
from linalg.systems import Counting, assert_solved, normal, spd, statuses
from torch.utils._python_dispatch import TorchDispatchMode

from amu_fast.errors import DataError
from amu_fast.linalg import (
    Cholesky,
    ConjugateGradient,
    DampedOperator,
    GlmHessian,
    JacobiPreconditioner,
    MatrixOperator,
    Neumann,
)
from amu_fast.ops.spd import SPD_SOLVE
from amu_fast.status import Status

SOLVERS = {
    "cg": ConjugateGradient(check_every=None, max_steps=40),
    "neumann": Neumann(check_every=None, max_steps=120),
    "neumann-terms": Neumann(check_every=None, terms=5, step_size=0.5),
    "cholesky": Cholesky(),
}
EACH = pytest.mark.parametrize("name", SOLVERS)


class Refusal(TorchDispatchMode):
    """Raises where the host would wait for a number of the device."""

    ASKING = ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::item", "aten::equal", "aten::nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().split(".")[0] in self.ASKING:
            raise AssertionError(f"the host waits: {func.name()}")
        return func(*args, **(kwargs or {}))


def operators():
    x = normal(3, 40, 16)
    return {
        "matrix": MatrixOperator(spd(17, 5.0, (3,))),
        "damped": DampedOperator(MatrixOperator(spd(17, 5.0, (3,))), 0.1),
        "glm": GlmHessian(x, normal(3, 40, seed=1).abs() / 40, 0.5),
    }


def same(a, b):
    """Two solutions, bit for bit, NaN where NaN."""
    return all(torch.equal(x.nan_to_num(7.5), y.nan_to_num(7.5)) for x, y in zip(astuple(a), astuple(b), strict=True))


@EACH
@pytest.mark.parametrize("operator", ["matrix", "damped", "glm"])
@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("shape", [(3, 17), (2, 3, 17)])
def test_the_host_never_waits(name, operator, preconditioned, shape):
    h = operators()[operator]
    hint = JacobiPreconditioner.from_operator(h) if preconditioned else None
    with Refusal():
        solution = SOLVERS[name].solve(h, normal(*shape), preconditioner=hint)
    assert name == "neumann-terms" or statuses(solution) <= {"CONVERGED"}


@pytest.mark.parametrize("name", ["cg", "neumann"])
def test_a_solve_that_asks_is_caught(name):
    with Refusal(), pytest.raises(AssertionError, match="the host waits"):
        replace(SOLVERS[name], check_every=10).solve(operators()["matrix"], normal(3, 17))


@pytest.mark.parametrize("solver", [ConjugateGradient(max_steps=60), Neumann(max_steps=60), Neumann(terms=9)])
def test_asking_changes_no_bit(solver):
    """Problems of very different length, and one that fails: closed ones stay as they are for the other steps."""
    matrices = torch.stack([spd(17, 2.0), spd(17, 30.0), -spd(17, 2.0), spd(17, 2.0)])
    matrices[3, 2, 2] = torch.nan
    operator, rhs = MatrixOperator(matrices), normal(2, 4, 17)
    asking, silent = solver.solve(operator, rhs), replace(solver, check_every=None).solve(operator, rhs)
    assert same(asking, silent)
    assert len(set(silent.status.flatten().tolist())) > 1


def test_all_steps_are_made_and_looked_at():
    counting = Counting(spd(63, 10.0))
    solution = ConjugateGradient(check_every=None, max_steps=60, refresh_every=25).solve(counting, normal(63))
    assert counting.products == 60 + 3
    assert int(solution.steps) < 60


def test_the_number_of_steps_must_be_known():
    with pytest.raises(DataError, match=r"check_every=None makes exactly max_steps steps, got max_steps=None; set it"):
        ConjugateGradient(check_every=None)


@EACH
def test_compiles_to_one_graph(name):
    """With a failure in the batch: a comparison that the compiler takes for False would make it an answer."""
    solver = SOLVERS[name] if name == "cholesky" else replace(SOLVERS[name], **SHORT[name])
    matrices = spd(9, 5.0, (3,))
    matrices[1, 0, 0] = torch.nan
    rhs = normal(3, 9)

    def solve(matrices, rhs):
        solution = solver.solve(MatrixOperator(matrices), rhs)
        return solution.value, solution.status, solution.residual_norms, solution.steps

    torch._dynamo.reset()
    compiled = torch.compile(solve, fullgraph=True, backend="aot_eager")(matrices, rhs)
    eager = solve(matrices, rhs)
    assert all(torch.equal(a.nan_to_num(7.5), b.nan_to_num(7.5)) for a, b in zip(compiled, eager, strict=True))
    assert int(compiled[1][1]) == Status.NONFINITE


SHORT = {"cg": {"max_steps": 4}, "neumann": {"max_steps": 2, "power_steps": 2}, "neumann-terms": {"terms": 3}}


@pytest.mark.parametrize(
    ("p", "several", "fused"), [(17, (), True), (128, (), True), (129, (), False), (17, (2,), False)]
)
def test_one_right_hand_side_of_a_small_system_is_solved_without_a_factor(p, several, fused, monkeypatch):
    matrix, rhs = spd(p, 5.0, (3,)), normal(*several, 3, p)
    calls = []

    class Counted:
        @staticmethod
        def bare(*args):
            calls.append(args)
            return SPD_SOLVE.bare(*args)

    monkeypatch.setattr("amu_fast.linalg.cholesky.SPD_SOLVE", Counted)
    assert_solved(matrix, rhs, Cholesky(rtol=1e-10).solve(MatrixOperator(matrix), rhs), 1e-10, smallest=0.2)
    assert len(calls) == fused


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cg", "neumann", "neumann-terms"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_captured_solve_solves_new_right_hand_sides(name, dtype):
    """Warm-up, capture, then replays; the graph reads the right-hand side where it lay at capture."""
    solver = replace(SOLVERS[name], rtol=1e-5)
    matrix = spd(17, 5.0, (3,), dtype=dtype)
    operator, rhs = MatrixOperator(matrix.cuda()), normal(2, 3, 17, dtype=dtype).cuda()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        solver.solve(operator, rhs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = solver.solve(operator, rhs)
    for seed in (5, 6):
        fresh = normal(2, 3, 17, seed=seed, dtype=dtype)
        rhs.copy_(fresh)
        graph.replay()
        torch.cuda.synchronize()
        assert same(captured, solver.solve(operator, rhs))
        if name != "neumann-terms":
            on_cpu = [t.cpu().clone() for t in astuple(captured)]
            assert_solved(matrix, fresh, type(captured)(*on_cpu), 1e-5, smallest=0.2)
