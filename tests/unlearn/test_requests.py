"""The queue of deletion requests: order, state on disk, kills, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from digits import PARTS, weights

from amu_fast.errors import DataError, SolveError
from amu_fast.report.report import Report
from amu_fast.splits import Splits
from amu_fast.unlearn import requests
from amu_fast.unlearn.methods import GradientAscent, NegGradPlus
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.requests import DeletionQueue

METHOD = NegGradPlus(epochs=0.6, batch_size=30, optimiser=Sgd(lr=0.02, momentum=0.0, clip=1.0))


@pytest.fixture
def queue(tmp_path, trained, digits):
    inputs, labels = digits
    parts = [(inputs[list(PARTS[name])], labels[list(PARTS[name])]) for name in ("validation", "test")]
    return DeletionQueue(tmp_path / "queue", trained, (inputs[:400], labels[:400]), *parts, METHOD)


def test_requests_are_done_in_order_each_from_the_model_before(queue, trained, digits):
    queue.submit("first", range(300, 330))
    queue.submit("second", range(330, 350))
    first, second = queue.process(figures=False)
    splits = Splits.from_indices(
        digits,
        retain=[*range(300), *range(330, 400)],
        forget=range(300, 330),
        validation=PARTS["validation"],
        test=PARTS["test"],
    )
    assert torch.equal(weights(METHOD.unlearn(trained, splits, seed=0).model), weights(first.model))
    splits = Splits.from_indices(
        digits,
        retain=[*range(300), *range(350, 400)],
        forget=range(330, 350),
        validation=PARTS["validation"],
        test=PARTS["test"],
    )
    assert torch.equal(weights(METHOD.unlearn(first.model, splits, seed=1).model), weights(second.model))
    assert torch.equal(weights(queue.current_model()), weights(second.model))
    assert queue.pending == ()
    assert queue.process() == ()


def test_every_request_has_its_report_and_looks_back_at_all_before(queue):
    for k in range(3):
        queue.submit(f"request {k}", range(300 + 20 * k, 320 + 20 * k))
    results = queue.process(figures=False)
    reports = [Report.load(queue.folder(k) / "report.json") for k in range(3)]
    assert [r.metrics["all_forgotten_accuracy"].n for r in reports] == [20, 40, 60]
    assert [r.seed for r in reports] == [0, 1, 2]
    assert reports[2].metrics["forget_accuracy"].n == 20
    assert reports[2].to_json() == results[2].report.to_json()
    assert [request.finished is not None for request in queue.state.requests] == [True] * 3


def test_a_stopped_queue_goes_on_bitwise(queue, tmp_path, trained, monkeypatch):
    other = replace(queue, directory=tmp_path / "other")
    for q in (queue, other):
        for k in range(3):
            q.submit(str(k), range(300 + 20 * k, 320 + 20 * k))
    whole = queue.process(figures=False)

    write = requests.write_atomic

    def dies(path, data):
        if (
            path.name == "queue.json"
            and json.loads(data)["requests"][1]["finished"]
            and not (tmp_path / "died").exists()
        ):
            (tmp_path / "died").touch()
            raise KeyboardInterrupt
        return write(path, data)

    monkeypatch.setattr(requests, "write_atomic", dies)
    with pytest.raises(KeyboardInterrupt):
        other.process(figures=False)
    assert [request.name for request in other.pending] == ["1", "2"]
    again = DeletionQueue(
        other.directory, trained, other.training, other.validation, other.test, METHOD
    )  # a new process would
    again.process(figures=False)
    assert torch.equal(weights(again.current_model()), weights(whole[-1].model))


def test_what_is_done_stays_done_when_a_run_diverges(queue, tmp_path, trained):
    wild = GradientAscent(epochs=2.0, batch_size=10, optimiser=Sgd(lr=1e6, schedule="constant"))
    bad = replace(queue, directory=tmp_path / "wild", method=wild)
    bad.submit("only", range(300, 330))
    with pytest.raises(SolveError):
        bad.process(figures=False)
    assert [r.name for r in bad.pending] == ["only"]
    assert torch.equal(weights(bad.current_model()), weights(trained))


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("first", range(5), "has a request 'first' already"),
        ("next", [], "names no row"),
        ("next", [399, 400], r"lie in 0 to 399, got \[400\]"),
        ("next", [7, 7], "must be distinct"),
        ("next", [350, 3], "row 3 is in request 'first' already"),
        ("next", range(10, 400), "would leave no training row"),
    ],
)
def test_bad_requests_are_refused_and_change_nothing(queue, name, rows, message):
    queue.submit("first", range(10))
    before = (queue.directory / "queue.json").read_bytes()
    with pytest.raises(DataError, match=message):
        queue.submit(name, rows)
    assert (queue.directory / "queue.json").read_bytes() == before


def test_a_folder_of_another_queue_is_refused(queue, digits):
    with pytest.raises(DataError, match="another method"):
        replace(queue, method=replace(METHOD, epochs=9.0))
    with pytest.raises(DataError, match=r"another seed \(0, here 4\)"):
        replace(queue, seed=4)
    with pytest.raises(DataError, match="another data"):
        replace(queue, training=(digits[0][:300], digits[1][:300]))
    path = queue.directory / "queue.json"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"queue\.json: not a amu-fast-deletions/1 document"):
        _ = queue.state


def test_two_processes_do_not_work_on_one_queue(queue):
    queue.submit("first", range(10))
    script = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(queue.directory / ".lock")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DataError, match="another process works on the queue"):
            queue.process()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    queue.submit("second", range(10, 20))  # a dead process holds nothing
