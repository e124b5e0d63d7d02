"""The commands behind docs/audit.md, on a task of seconds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny

from amu_fast.bench import deletions, readme, ulira
from amu_fast.unlearn.optimise import Sgd

pytest.importorskip("safetensors")

TINY = replace(tiny.TASK, validation=100, test=300, noise=0.0, epochs=8.0)


def test_ulira_finds_what_a_bad_unlearner_left_and_makes_nothing_twice(tmp_path, monkeypatch):
    memorising = replace(TINY, epochs=20.0, hidden=64, optimiser=Sgd(lr=0.1, weight_decay=0.0, warmup=0.1))
    plan = ulira.Plan(task=memorising, retain=100, planted=40, validation=100, models=4, targets=2)
    record = ulira.attack(plan, tmp_path, jobs=1)
    assert record["auc"]["nothing"]["value"] > 0.9
    assert record["auc"]["retrain"]["value"] < 0.7
    assert set(record["auc"]) == {"nothing", "fine-tuning", "game", "retrain", "another retrain"}
    assert len(list((tmp_path / "models").glob("*.safetensors"))) == 4 * (4 + 2) + 2

    def never(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr("amu_fast.fleet.fleet.make", never)
    again = ulira.attack(plan, tmp_path, jobs=1)
    assert again["auc"] == record["auc"]
    text = ulira.markdown(record)
    assert "| nothing |" in text
    assert "within 0.05" in text


def test_planted_rows_and_validation_rows_are_wrong_and_disjoint():
    plan = ulira.Plan(task=TINY, retain=150, planted=40, validation=100)
    (_, labels), retain, planted, validation = ulira._rows(plan)
    clean = TINY.population().labels
    assert (labels[planted] != clean[planted]).all()
    assert (labels[validation] != clean[validation]).all()
    assert (labels[retain] == clean[retain]).all()
    assert len({*retain.tolist(), *planted.tolist(), *validation.tolist()}) == 290


def test_requests_in_a_row_are_judged_after_each_and_records_are_found_again(tmp_path, monkeypatch):
    plan = deletions.Plan(task=TINY, units=(0, 1), requests=2, rows=15, share=0.2)
    for unit in plan.units:
        deletions.run_unit(plan, unit, tmp_path)
    record = deletions.summarise(plan, tmp_path)
    assert [len(after) for after in record["after"].values()] == [2, 2, 2, 1]
    nothing = record["after"]["nothing"]
    assert nothing[1]["forget_accuracy"][0] >= 0.0  # the original still knows what a retrained model does not
    assert len(list((tmp_path / "queues").iterdir())) == 4
    queue = json.loads(next((tmp_path / "queues").glob("*/queue.json")).read_text())
    assert all(request["finished"] for request in queue["requests"])
    monkeypatch.setattr(deletions.Splits, "from_indices", None)
    assert deletions.run_unit(plan, 0, tmp_path) == "unit 0: done before"
    lines = deletions.markdown(record).splitlines()
    assert sum(line.startswith("| 2 |") for line in lines) == 4


def test_the_page_shows_every_table_of_a_comparison(tmp_path, monkeypatch):
    folder = tmp_path / "compare"
    folder.mkdir()
    (folder / "compare.md").write_text(
        "# Title\n\nCaption.\n\n## one: data\n\nMargins.\n\n### one, budget 5 % of retraining\n\n| a |\n\n"
        "Other attacks and distances, means:\n\n| hidden |\n\n### Chosen hyper-parameters\n\n| p |\n"
    )
    (folder / "pareto-one.png").write_bytes(b"")
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    block = readme.compared()
    assert "### one, budget 5 % of retraining\n\n| a |" in block
    assert "hidden" not in block
    assert "| p |" not in block
    assert "pareto-one.png" in block
