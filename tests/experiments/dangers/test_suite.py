from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from amu_fast.audit.intervals import clopper_pearson
from amu_fast.bench import dangers
from amu_fast.experiments.dangers import Cast, DangerReport
from amu_fast.experiments.dangers.cast import half_a_class
from amu_fast.experiments.dangers.suite import PLAN, QUICK, Case
from amu_fast.experiments.datasets import draw, load
from amu_fast.experiments.records import read, save
from amu_fast.report.provenance import Provenance, plain


def record(*cases: Case) -> dangers.DangersRecord:
    return dangers.DangersRecord(plain(QUICK), "digest", cases, 12.0, Provenance.collect(QUICK))


CASES = (
    Case(
        "planted",
        DangerReport("trigger", {"rows": 1200.0}, {"after": clopper_pearson(3, 4)}, ("A: 1.", "A: 2.", "B: 3.")),
        ("rows", "after"),
        ("A", "B"),
    ),
    Case("control", DangerReport("trigger", {"p": 0.0123}, {}, ("A: false alarm.",)), ("p",), ()),
    Case("open", DangerReport("trigger", {"p": 1.0}), ("p",)),
)


def test_cases_compare_codes_as_sets():
    assert [case.as_expected for case in CASES] == [True, False, None]


def test_records_survive_the_disk(tmp_path):
    made = record(*CASES)
    save(tmp_path / "dangers.json", made)
    found = read(tmp_path / "dangers.json", dangers.DangersRecord)
    assert found.cases == made.cases
    assert dangers.table(found) == dangers.table(made)


def test_table_shows_figures_intervals_and_failures():
    lines = dangers.table(record(*CASES)).splitlines()
    assert lines[2] == "| planted | trigger | rows 1200, after 0.750 [0.194, 0.994] | A × 2, B | yes |"
    assert lines[3] == "| control | trigger | p 0.0123 | A | **no** |"
    assert lines[4] == "| open | trigger | p 1 | none | – |"


def test_half_a_class_moves_rows_between_retain_and_forget_only():
    population = load("digits")
    parts = draw(len(population), 0, train=300, forget=30, validation=100, test=200)
    found = half_a_class(parts, population.labels)
    assert sorted(found.retain + found.forget) == sorted(parts.retain + parts.forget)
    assert (found.validation, found.test) == (parts.validation, parts.test)
    labels = population.labels[list(found.forget)]
    assert len(labels.unique()) == 1
    left = int((population.labels[list(found.retain)] == labels[0]).sum())
    assert left - len(found.forget) in (0, 1)


def test_obeying_a_request_keeps_no_row_that_it_names(tiny_task):
    task = replace(tiny_task, references=0, epochs=1.0)
    cast = Cast.of(task, task.population(), 0)
    train = cast.training_rows()
    request = (train[0][150:170], train[1][150:170])  # 140 retain rows come first
    splits = cast.obeying(request)
    kept, _ = splits.rows("retain").fetch(torch.arange(len(splits.rows("retain"))))
    assert len(kept) == 180
    assert torch.equal(kept, torch.cat([train[0][:150], train[0][170:]]))


def test_the_document_is_that_of_the_committed_record():
    assert dangers.main(["--check"]) == 0


@pytest.mark.slow
def test_every_planted_danger_is_seen_and_no_control_warns(tmp_path):
    assert dangers.main(["--quick", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "dangers.md").read_text().count("| yes |") >= 15


def test_plans_leave_outsiders_for_the_references():
    for plan, rows in ((PLAN, 70_000), (QUICK, 5_000)):
        task = plan.task
        assert rows - task.train - task.validation - task.test >= task.train
        assert rows >= plan.federated_rows + task.validation + task.test
