from __future__ import annotations

import json
from dataclasses import replace
from math import sqrt

import pytest
from scipy.stats import t as student

from amu_fast.bench.table import main
from amu_fast.errors import DataError
from amu_fast.experiments import table, tuning
from amu_fast.experiments.aggregate import compare, margins_of
from amu_fast.experiments.evaluate import HEADLINE
from amu_fast.experiments.families import ABLATION, FAMILIES
from amu_fast.experiments.records import Search, Trial, UnitRecord, read, run_path, search_path, unit_path
from amu_fast.experiments.render import markdown
from amu_fast.experiments.runs import RunRecord
from amu_fast.experiments.summary import summarise
from amu_fast.experiments.table import Plan, make_table

pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")
SHARE = 0.25


@pytest.fixture(scope="module")
def plan(tiny_task):
    return Plan(
        tiny_task,
        units=(0, 1, 2),
        tuning_units=(900, 901),
        shares=(SHARE,),
        families=("fine_tune", "stackelberg"),
        rounds=1,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("table")


@pytest.fixture(scope="module")
def summary(plan, folder):
    return make_table(plan, folder, jobs=1, notify=lambda _: None)


def test_every_method_gets_as_many_configurations(summary, plan):
    assert {search.family: len(search.trials) for search in summary.searches} == {"fine_tune": 12, "stackelberg": 12}
    for search in summary.searches:
        assert search.units == plan.tuning_units
        assert search.best.gap == min(trial.gap for trial in search.trials)
        assert all(trial.gap == pytest.approx(sum(trial.gaps) / 2) for trial in search.trials)


def test_all_methods_used_their_budget_and_not_more(summary):
    for row in summary.rows:
        if row.share is not None:
            # a last step may pass the budget by its own rows: 20 + 20 + 64 of 2100
            assert SHARE <= row.used < SHARE + 0.05, row.name


def test_the_ablation_has_the_hyper_parameters_of_the_full_game(summary, folder):
    full = read(run_path(folder, SHARE, "stackelberg", 0), RunRecord)
    changed = {
        "direct_only": {"implicit": "direct_only"},
        "implicit_only": {"implicit": "implicit_only"},
        "weight_0": {"weight": 0.0},
    }
    assert set(changed) == set(ABLATION)
    for name, change in changed.items():
        record = read(run_path(folder, SHARE, name, 0), RunRecord)
        assert record.method.config == {**full.method.config, **change}
        assert record.seed == full.seed


def test_rows_are_what_a_hand_computes_from_the_records(summary, plan, folder):
    row = next(r for r in summary.rows if r.name == "stackelberg")
    runs = [json.loads(run_path(folder, SHARE, "stackelberg", n).read_text()) for n in plan.units]
    units = [json.loads(unit_path(folder, n).read_text()) for n in plan.units]
    quantile = student.ppf(0.975, 2)
    for metric in HEADLINE:
        signed = [
            100 * (r["headline"][metric] - u["headline"]["retrain"][metric]) for r, u in zip(runs, units, strict=True)
        ]
        mean = sum(signed) / 3
        deviation = sqrt(sum((x - mean) ** 2 for x in signed) / 2)
        interval = row.differences[metric]
        assert interval.value == pytest.approx(mean)
        assert interval.high - interval.value == pytest.approx(quantile * deviation / sqrt(3))
    gaps = [sum(abs(100 * r["differences"][m]) for m in HEADLINE) / 4 for r in runs]
    assert row.gap.value == pytest.approx(sum(gaps) / 3)
    fine_tune = [json.loads(run_path(folder, SHARE, "fine_tune", n).read_text())["gap"] for n in plan.units]
    against = next(c for c in summary.comparisons if c.second == "fine_tune")
    assert against.difference.value == pytest.approx(sum(gaps) / 3 - sum(fine_tune) / 3)
    assert against.p is None


def test_the_table_comes_from_the_records_alone(summary, plan, folder, monkeypatch):
    for name in ("prepare_unit", "run_method", "tune"):
        monkeypatch.setattr(table, name, lambda *_, **__: pytest.fail("computed"))
    again = summarise(folder, plan.units, plan.tuning_units, plan.shares, plan.families)
    assert again == summary
    text = markdown(again)
    assert "another retrain (floor)" in text
    assert "NaN" not in text
    assert (folder / "table.json").read_text() == summary.to_json()
    assert (folder / "table.png").stat().st_size > 5000
    assert (folder / "units" / ".gitignore").read_text() == "*\n"


def test_a_finished_table_is_not_computed_again(summary, plan, folder, monkeypatch):
    monkeypatch.setattr(table, "run_method", lambda *_, **__: pytest.fail("ran again"))
    monkeypatch.setattr(tuning, "run_method", lambda *_, **__: pytest.fail("tuned again"))
    assert make_table(plan, folder, jobs=1, notify=lambda _: None) == summary


def test_an_interrupted_table_goes_on_where_it_stopped(summary, plan, folder, monkeypatch):
    """One run and the last two trials of a search are lost; only they are done again, with the same outcome."""
    lost = run_path(folder, SHARE, "fine_tune", 1)
    before = read(lost, RunRecord)
    lost.unlink()
    path = search_path(folder, SHARE, "stackelberg")
    search = read(path, Search)
    table.save(path, replace(search, trials=search.trials[:-2]))
    done = []

    def counted(unit, method, **options):
        done.append((method.name, unit.seed))
        if len(done) == 2:
            raise KeyboardInterrupt
        return original(unit, method, **options)

    original = tuning.run_method
    monkeypatch.setattr(tuning, "run_method", counted)
    monkeypatch.setattr(table, "run_method", counted)
    with pytest.raises(KeyboardInterrupt):
        make_table(plan, folder, jobs=1, notify=lambda _: None)
    assert len(read(path, Search).trials) == len(search.trials) - 2
    make_table(plan, folder, jobs=1, notify=lambda _: None)
    assert done == [("stackelberg", 900)] + [("stackelberg", 901)] + [("stackelberg", u) for u in (900, 901)] * 2 + [
        ("fine_tune", 1)
    ]
    assert [t.gaps for t in read(path, Search).trials] == [t.gaps for t in search.trials]
    assert replace(read(lost, RunRecord), seconds=0.0) == replace(before, seconds=0.0)


def test_records_of_another_task_are_refused(summary, plan, folder, tiny_task, tmp_path):
    other = replace(plan, task=replace(tiny_task, unlearn_batch=10))
    with pytest.raises(DataError, match=r"unit-900\.json was written for another task"):
        make_table(other, folder, jobs=1, notify=lambda _: None)
    path = run_path(folder, SHARE, "fine_tune", 0)
    whole = path.read_text()
    path.write_text(whole[:50])
    with pytest.raises(DataError, match=r"unit-0\.json.*delete it to have it made again"):
        summarise(folder, plan.units, plan.tuning_units, plan.shares, plan.families)
    path.write_text(whole)


def test_the_command_names_the_missing_record(tmp_path, capsys):
    assert main(["--summarise", "--out", str(tmp_path)]) == 1
    assert "unit-0.json" in capsys.readouterr().err


def test_refinements_close_in_on_the_best_configuration():
    family = next(f for f in FAMILIES if f.name == "stackelberg")
    assert len(family.coarse) == 8
    best = {"lr": 0.2, "weight": 4.0}
    first, second = family.refined(best, 0), family.refined(best, 1)
    assert [p["lr"] / 0.2 for p in first] == pytest.approx([2**-0.5, 2**0.5, 1, 1])
    assert [p["weight"] / 4.0 for p in first] == pytest.approx([1, 1, 2**-0.5, 2**0.5])
    assert [p["lr"] / 0.2 for p in second] == pytest.approx([2**-0.25, 2**0.25, 1, 1])
    assert all(len(f.coarse) == 8 and len(f.ratios) == 2 for f in FAMILIES)


def test_the_best_trial_is_the_first_of_the_smallest():
    trials = [Trial({"lr": lr}, 0, (gap, gap), ({}, {}), 0, 1.0) for lr, gap in ((1.0, 3.0), (2.0, 2.0), (3.0, 2.0))]
    assert Search("x", 0.1, (1, 2), "", tuple(trials)).best.parameters == {"lr": 2.0}
    with pytest.raises(DataError, match="has no trial yet"):
        _ = Search("x", 0.1, (1, 2), "").best


def test_comparisons_are_paired_and_have_a_sign_flip_p_from_six_units():
    gaps = {"a": [1.0, 2.0, 1.5, 1.2, 0.8, 1.1], "b": [2.0, 3.0, 2.5, 2.2, 1.8, 2.1]}
    comparison = compare("a", "b", 0.05, gaps)
    assert comparison.difference.value == pytest.approx(-1.0)
    assert comparison.difference.high == pytest.approx(-1.0)
    assert comparison.p == pytest.approx(2 / 64)


def test_the_attack_margin_is_a_fifth_of_what_there_is_to_forget(summary, plan, folder):
    units = [read(unit_path(folder, n), UnitRecord) for n in plan.tuning_units]
    excess = sum(u.headline["original"]["attack_auc"] - u.headline["retrain"]["attack_auc"] for u in units) / 2
    assert margins_of(units)["attack_auc"] == pytest.approx(min(5.0, 20.0 * excess))
    none = [replace(u, headline={**u.headline, "original": u.headline["retrain"]}) for u in units]
    with pytest.raises(DataError, match="nothing to forget"):
        margins_of(none)
