"""Every case with every contender that is installed, tiny: gates, records, tables and figures. Nothing is timed here
that an assertion looks at.
"""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace

import pytest
import torch

from amu_fast.bench import cases, figures, plots, records
from amu_fast.bench.session import Session

CPU = torch.device("cpu")
#: What needs no package beyond the library's own and is right on the tiny cases, too.
ALWAYS = {
    "P1": {"amu_fast", "eager Newton", "eager Newton, float32", "compiled Newton", "liblinear"},
    "P2": {"amu_fast", "chunked PyTorch", "torch.compile"},
    "P3": {"amu_fast", "torch Cholesky"},
    "P4": {"amu_fast", "amu_fast, jvp", "eager double backward"},
    "P5": {"amu_fast", "torch dense Cholesky, float64", "scipy cg, float64"},
}
OUTCOMES = {"ok", "did not reach", "out of time", "not installed"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    with warnings.catch_warnings():
        # Peers warn about their own future.
        warnings.simplefilter("ignore")
        assert Session(out, CPU, smoke=True).run(cases.SMOKE) == 0
    return out


def lines(folder, family):
    return records.load(folder / f"{family.lower()}.csv")


@pytest.mark.parametrize("case", cases.SMOKE, ids=lambda case: f"{cases.family(case)}-{case.name}")
def test_every_contender_has_one_record_and_time_only_behind_the_gate(folder, case):
    found = [line for line in lines(folder, cases.family(case)) if line.case == case.name]
    names = [line.contender for line in found]
    assert len(names) == len(set(names))
    assert found[0].ours
    for line in found:
        assert line.outcome in OUTCOMES, (line.contender, line.notes)
        assert math.isfinite(line.seconds) == (line.outcome == "ok"), line.contender
        if line.contender.startswith("amu_fast"):
            assert line.outcome == "ok", (line.contender, line.error)
        if line.outcome == "ok":
            assert 0 < line.p20 <= line.seconds <= line.p80
            assert line.samples >= 1
            assert line.limit > 0
            assert line.share == pytest.approx(line.limit / line.per_unit, rel=1e-3)
        if line.ours:
            assert line.error <= line.tolerance
    expected = ALWAYS[cases.family(case)]
    expected = expected - {"liblinear"} if case.name == "smoke-logistic" else expected
    expected = {"amu_fast"} if case.name == "smoke-standardized" else expected
    assert expected <= {line.contender for line in found if line.outcome == "ok"}


def test_records_say_where_they_come_from(folder):
    for family in ("P1", "P2", "P3", "P4", "P5"):
        facts = json.loads(lines(folder, family)[0].provenance)
        assert facts["versions"]["torch"] == torch.__version__
        assert facts["threads"] == torch.get_num_threads()
        assert set(facts["operators"].values()) <= {"C++", "PyTorch reference"}


def test_a_second_run_appends_and_is_the_one_that_counts(folder, tmp_path):
    case = next(c for c in cases.SMOKE if cases.family(c) == "P2")
    first = [line for line in lines(folder, "P2") if line.case == case.name]
    path = tmp_path / "p2.csv"
    records.append(path, first)
    records.append(path, [replace(line, run="20991231T000000Z") for line in first])
    text = path.read_text().splitlines()
    assert len(text) == 1 + 2 * len(first)
    assert {line.run for line in records.latest(records.load(path))} == {"20991231T000000Z"}


def test_figures_and_tables_come_from_the_records(folder):
    files = plots.draw_all(folder)
    assert {file.name for file in files} == {f"{family}-cpu.png" for family in ("p1", "p2", "p3", "p4", "p5")}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    table = figures.table(figures.loaded(folder, "P1"))
    assert table.count("**amu_fast**") == 4
    summary = figures.summary(folder)
    assert summary.count("\n| P") == len(cases.SMOKE)


def test_tables_without_records_say_so(tmp_path):
    assert figures.summary(tmp_path) == figures.table(figures.loaded(tmp_path, "P1")) == figures.NONE
