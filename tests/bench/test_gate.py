"""What decides over a time: the gate, the oracle behind it, the stops, and the steps of a GPU run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracle import Follower
from oracle import auditor_step as dense_step

from amu_fast.bench import gpu, readme, records, runner
from amu_fast.bench.auditor_problem import AuditorProblem, ours
from amu_fast.bench.auditor_rows import OperatorCall, OurCall
from amu_fast.bench.cases import CPU, GPU, SMOKE, AuditorCase, ProductCase, SolveCase, SpdCase
from amu_fast.bench.contender import Contender, NotAvailable, Verdict
from amu_fast.bench.p1 import load_peer
from amu_fast.bench.peers import eager, newton
from amu_fast.bench.product_problem import ProductProblem
from amu_fast.bench.solve_problem import SolveProblem
from amu_fast.bench.spd_problem import SpdProblem
from amu_fast.bench.timing import OutOfTime, Times, interleave, limited, wall_clock

HOST = torch.device("cpu")
AUDITOR = [case for case in SMOKE if isinstance(case, AuditorCase)]


@pytest.mark.parametrize("case", AUDITOR, ids=lambda case: case.name)
def test_the_oracle_is_the_dense_one(case):
    problem = AuditorProblem.of(case, HOST)
    dense = dense_step(
        problem.scores[0].double().numpy(),
        problem.labels.numpy(),
        follower=Follower(case.loss, case.l2),
        train_masks=problem.train_masks.numpy(),
        groups=problem.groups.numpy(),
        standardize=case.standardize,
    )
    *rows, uncertain = problem.oracle
    assert not bool(uncertain.any())
    truth = problem.rows_of(torch.from_numpy(dense.gradients.astype(np.float64)))
    for mine, true in zip(rows, truth, strict=True):
        assert float((mine - true).norm() / true.norm()) < 1e-9


def test_problems_of_the_paper_have_its_sizes():
    sizes = {case.name: case for case in CPU if isinstance(case, AuditorCase)}
    for name, problems, train in (("cifar10", 30, 140), ("cifar100", 300, 14), ("language-model", 3, 256)):
        assert tuple(AuditorProblem.of(sizes[name], HOST).train.shape) == (problems, train)
    large = sizes["large"]
    assert (large.groups * large.folds, large.columns + 1) == (10_080, 64)
    assert {case.columns for case in GPU if isinstance(case, ProductCase)} >= {64, 1001, 4096, 131_072}


def test_a_wrong_gradient_in_one_problem_does_not_pass():
    problem = AuditorProblem.of(AUDITOR[0], HOST)
    gradients = torch.stack([ours(problem, 0, fold) for fold in range(AUDITOR[0].folds)])
    rows = problem.rows_of(gradients)
    assert problem.judge(rows, AUDITOR[0].groups).passed
    spoilt = rows[0].clone()
    spoilt[-1] *= 1.001
    assert not problem.judge((spoilt, rows[1]), AUDITOR[0].groups).passed
    spoilt[-1] = torch.nan
    assert not problem.judge((spoilt, rows[1]), AUDITOR[0].groups).passed


def test_the_other_gates_refuse_too():
    spd = SpdProblem.of(next(c for c in SMOKE if isinstance(c, SpdCase) and c.dtype == "float64"), HOST)
    assert spd.judge(spd.exact).passed
    assert not spd.judge(spd.exact * (1 + 1e-8)).passed
    eigenvalues = torch.linalg.eigvalsh(spd.matrix)
    assert float(eigenvalues.max() / eigenvalues.min()) == pytest.approx(spd.case.condition, rel=1e-6)
    product = ProductProblem.of(next(c for c in SMOKE if isinstance(c, ProductCase)), HOST)
    assert product.judge(product.exact).passed
    assert not product.judge((product.exact[0] * (1 + 1e-5),)).passed
    solve = SolveProblem.of(next(c for c in SMOKE if isinstance(c, SolveCase)), HOST)
    assert not solve.judge(torch.zeros_like(solve.rhs[0]), 0).passed
    assert not Verdict(float("nan"), 1.0).passed


def contenders(*prepared):
    return [Contender(f"c{i}", prepare, "all", "float64") for i, prepare in enumerate(prepared)]


def test_outcomes_of_contenders_that_cannot_take_part():
    def absent(problem):
        return load_peer("no_such_peer", "batched", (), problem)

    def broken(problem):
        raise RuntimeError("does not load")

    def unbuilt(problem):
        raise NotAvailable("not built", "no operator")

    def hangs(problem):
        while True:
            time.sleep(0.01)

    def wrong(problem):
        return lambda number: 1.0

    module = SimpleNamespace(
        PATIENCE=0.05,
        contenders=lambda case: contenders(absent, broken, unbuilt, hangs, wrong),
        check=lambda problem, call: Verdict(call(0), 1e-6),
    )
    entries = runner._admit(module, None, None)
    assert [entry.outcome for entry in entries] == [
        "not installed", "failed", "not built", "out of time", "did not reach",
    ]  # fmt: skip
    slow = contenders(lambda problem: hangs)[0]
    stopped = SimpleNamespace(PATIENCE=1.0, check=lambda problem, call: call(0))
    assert runner._judged(slow, stopped, None, 0.05).outcome == "did not reach"
    assert entries[1].notes == "RuntimeError: does not load"
    assert all(entry.call is None for entry in entries)


def stubborn():
    """Goes on whatever exception its work raises."""
    while True:
        with contextlib.suppress(Exception):
            time.sleep(0.005)


def test_a_share_above_one_is_doubted_and_not_clipped():
    blank = records.Record(**{f.name: "" for f in fields(records.Record)})
    line = replace(blank, seconds=1.0, units=2, notes="n")
    assert runner._compared(line, 0.25, 0.25).notes == "n"
    above = runner._compared(line, 0.25, 0.75)
    assert (above.ratio, above.share) == (2.0, 1.5)
    assert above.notes == f"n; {runner.PASSED_LIMIT}"


def test_an_alarm_is_not_swallowed_and_leaves_nothing_behind():
    with pytest.raises(OutOfTime, match=r"stopped after 0\.02 s"), limited(0.02):
        stubborn()
    time.sleep(0.03)


def test_rounds_interleave_and_rotate():
    seen: list[tuple[str, int]] = []
    calls = {name: lambda number, name=name: (seen.append((name, number)), time.sleep(0.025)) for name in "ab"}
    times = interleave(calls, 0.2, wall_clock)
    order = [name for name, _ in seen]
    assert order[:6] == ["a", "b", "a", "b", "a", "b"]
    assert [number for name, number in seen if name == "a"][:3] == [0, 1, 2]
    assert times["a"].samples >= 3
    assert Times.of([3.0, 1.0, 2.0]).median == 2.0


@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("logistic", [False, True])
def test_the_eager_baseline_leaves_no_residual(dual, logistic):
    n, p = (6, 9) if dual else (30, 4)
    x, y = torch.randn(5, n, p - 1).double(), torch.where(torch.rand(5, n) < 0.5, 1.0, -1.0).double()
    a = eager._signed(x, y)
    follower = newton.Follower(logistic, 1e-2, 1e-10)
    w, _ = newton.minimise(follower, a, torch.bmm(a, a.mT) if dual else None)
    gradient = newton.times(a.mT, follower.slope(newton.times(a, w))) / n + follower.l2 * w
    assert float(gradient.norm(dim=-1).max()) < 1e-9


def test_documents_are_those_of_the_committed_records():
    for document in readme.BLOCKS:
        text = document.read_text()
        assert readme.rendered(text, document) == text, f"{document.name}: run python -m amu_fast.bench.readme"
    for name in readme.OPERATORS:
        assert f"<!-- operator {name}:begin -->" in readme.PERFORMANCE.read_text()


def test_steps_of_a_gpu_run_fail_alone_and_are_not_repeated(tmp_path, monkeypatch):
    commands = {
        "tests": "raise SystemExit(3)",
        "p2": "import time; time.sleep(60)",
        "p1": "print('fine')",
    }
    monkeypatch.setattr(gpu, "LIMITS", {"tests": 30.0, "p2": 0.5, "p1": 30.0})
    monkeypatch.setattr(gpu, "_command", lambda name, *_: [sys.executable, "-c", commands[name]])
    assert gpu.run(tmp_path) == 2
    steps = json.loads((tmp_path / "steps.json").read_text())
    assert {name: step["status"] for name, step in steps.items()} == {
        "tests": "failed", "p2": "out of time", "p1": "ok",
    }  # fmt: skip
    assert (tmp_path / "p1.log").read_text() == "fine\n"
    commands["p1"] = "raise SystemExit(1)"
    commands["tests"] = "pass"
    assert gpu.run(tmp_path) == 1


def test_a_gpu_step_runs_cases(tmp_path):
    step = gpu._step(tmp_path / "p2.log", gpu._command("p2", tmp_path, "cpu", True), 100)
    assert step.status == "ok", (tmp_path / "p2.log").read_text()
    assert (tmp_path / "p2.csv").is_file()


def test_every_step_of_a_gpu_run_has_a_command_that_exists(tmp_path):
    for name in gpu.LIMITS:
        _, first, *rest = gpu._command(name, tmp_path, "cpu", True)
        target = rest[0] if first == "-m" else first
        assert importlib.util.find_spec(target) if first == "-m" else Path(target).is_file(), name


def test_a_gate_on_some_groups_does_not_change_what_a_call_solves():
    """Times are divided by the problems of a call, not by those that the oracle checked."""
    case = replace(AUDITOR[0], checked_groups=1)
    problem = AuditorProblem.of(case, HOST)
    for call in (OurCall(problem), OperatorCall(problem), eager.eager(problem)):
        verdict = call.judge(problem)
        assert verdict.passed
        assert verdict.units == case.folds * case.groups
