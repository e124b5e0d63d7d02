"""The language table from start to end on a task of seconds, and the parts it is made of."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="language models need transformers; pip install 'amu-fast[hf]'")

from amu_fast.audit.metrics import auc
from amu_fast.errors import DataError, SolveError
from amu_fast.experiments.language import judge, table
from amu_fast.experiments.language.data import Batches, joined, of_clusters, size, take, trimmed
from amu_fast.experiments.language.families import FAMILIES
from amu_fast.experiments.language.judge import HEADLINE, PartOutputs, fitted_auc, headline
from amu_fast.experiments.language.loops import AdamW, descend, train
from amu_fast.experiments.language.models import tiny_llama
from amu_fast.experiments.language.runs import run_recipe
from amu_fast.experiments.language.units import LanguageTask, prepare_unit
from amu_fast.experiments.records import read, run_path
from amu_fast.experiments.runs import RunRecord
from amu_fast.unlearn.objectives import GradientAscent

TASK = LanguageTask(
    retain=10,
    forget=6,
    held_out=6,
    questions=3,
    general=40,
    mixed=10,
    hidden=16,
    layers=1,
    base_epochs=1.0,
    epochs=4.0,
    references=1,
    tuning=AdamW(lr=5e-3, batch_size=8),
)
PLAN = table.LanguagePlan(TASK, (0, 1), (900,), (0.5,), ("fine_tune", "game"), rounds=0)


@pytest.fixture(scope="module")
def unit(tmp_path_factory):
    return prepare_unit(TASK, 0, tmp_path_factory.mktemp("units"))


def part(rows, length=6):
    ids = torch.arange(rows * length).view(rows, length) % 7
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids, "clusters": torch.arange(rows)}


def test_batches_pass_over_all_rows_and_depend_on_seed_and_name_only():
    seen = [Batches(part(10), 4, seed, name) for seed, name in ((0, "a"), (0, "a"), (0, "b"), (1, "a"))]
    rows = [torch.cat([stream.next()["clusters"] for _ in range(5)]) for stream in seen]
    assert sorted(rows[0][:10].tolist()) == list(range(10)) == sorted(rows[0][10:].tolist())
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    assert not torch.equal(rows[0], rows[3])


def test_distinct_batches_hold_no_row_twice():
    stream = Batches(part(10), 4, 0, "audit", distinct=True)
    for _ in range(9):
        assert len(set(stream.next()["clusters"].tolist())) == 4


def test_rows_are_cut_by_author_and_padding_columns_go():
    rows = part(4)
    rows["attention_mask"][:, 4:] = 0
    assert trimmed(rows)["input_ids"].shape == (4, 4)
    assert of_clusters(rows, torch.tensor([3, 1]))["clusters"].tolist() == [1, 3]
    assert size(joined(rows, take(rows, torch.tensor([0])))) == 5
    with pytest.raises(DataError, match="batch_size must be >= 1"):
        Batches(rows, 0, 0, "retain")


def test_the_rate_warms_up_and_falls_to_zero():
    options = AdamW(lr=2.0, warmup=0.5)
    assert options.rate(0.0) < 0.01
    assert options.rate(0.5) == pytest.approx(1.0, abs=0.01)
    assert options.rate(1.0) == pytest.approx(0.0)
    with pytest.raises(DataError, match="lr must be > 0"):
        AdamW(lr=0.0)


def test_a_run_stops_at_its_budget_and_repeats_bit_for_bit():
    torch.manual_seed(0)
    first = tiny_llama(7, hidden=16, layers=1)
    second = tiny_llama(7, hidden=16, layers=1)
    second.load_state_dict(first.state_dict())
    done = [train(model, part(20), 1.5, AdamW(batch_size=8), seed=3) for model in (first, second)]
    assert done[0] == done[1]
    assert 30 <= done[0].gradient_samples < 38
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_loss_that_is_not_finite_ends_the_run():
    model = tiny_llama(7, hidden=16, layers=1)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(SolveError, match="lower lr"):
        descend(model, GradientAscent(), {"forget": part(8)}, AdamW(), 8.0, seed=0)


def test_the_parts_of_a_unit_share_no_author(unit):
    names = ("retain", "forget", "game", "validation", "test")
    authors = [set(unit.parts[name]["clusters"].tolist()) for name in names]
    assert [len(a) for a in authors] == [10, 6, 6, 6, 6]
    assert len(set.union(*authors)) == 34
    assert size(unit.parts["kept"]) == 10 * 3 + 10
    assert TASK.fine_tuning_samples == 4.0 * 40
    assert not set(map(tuple, unit.parts["general"]["input_ids"].tolist())) & set(
        map(tuple, unit.parts["pretraining"]["input_ids"].tolist())
    )


def test_a_unit_comes_back_from_its_file(unit, tmp_path):
    again = prepare_unit(TASK, 0, tmp_path)
    assert unit.outputs["floor"]["test"].scores.tobytes() == again.outputs["floor"]["test"].scores.tobytes()
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="damaged"):
        prepare_unit(TASK, 0, tmp_path)


def test_accuracies_are_shares_of_counted_tokens(unit):
    rows = unit.parts["forget"]
    logits = unit.original(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
    hits = total = 0
    for i, labels in enumerate(rows["labels"].tolist()):
        for t, label in enumerate(labels[1:]):
            if label != -100:
                total += 1
                hits += int(logits[i, t].argmax()) == label
    outputs = unit.outputs["original"]["forget"]
    assert outputs.accuracy == pytest.approx(hits / total)
    assert outputs.scores.shape == (18, 8)


def fake(clusters, shift, rng):
    n = len(clusters)
    return PartOutputs(rng.normal(size=(n, 8)) + shift, rng.normal(size=(n, 3)), 0.5, clusters)


def test_the_fitted_attack_never_judges_an_author_it_was_fitted_on(monkeypatch):
    rng = np.random.default_rng(0)
    authors = np.repeat(np.arange(6), 4)
    outputs = {
        "forget": fake(authors, 1.0, rng),
        "validation": fake(authors + 10, 0.0, rng),
        "test": fake(authors + 20, 0.0, rng),
    }
    fits = []
    real = judge.fit_margin

    def spy(members, nonmembers, l2):
        fits.append(members)
        return real(members, nonmembers, l2)

    monkeypatch.setattr(judge, "fit_margin", spy)
    value = fitted_auc(outputs, lambda p: p.scores)
    scores = outputs["forget"].scores
    assert np.array_equal(fits[0], scores[:12])
    assert np.array_equal(fits[1], scores[12:])
    first = real(scores[:12], outputs["validation"].scores, 1e-2)
    second = real(scores[12:], outputs["validation"].scores, 1e-2)
    test = outputs["test"].scores
    expected = (auc(first(scores[12:]), first(test)) + auc(second(scores[:12]), second(test))) / 2
    assert value == pytest.approx(expected)
    assert value > 0.8


def test_the_calibrated_attack_counts_pairs_in_the_right_order(unit):
    """Share of (forget, test) pairs whose forget row gains more over the reference than the test row; ties half."""
    own, reference = unit.outputs["original"], unit.outputs["reference_0"]
    gains = {part: own[part].scores[:, 0] - reference[part].scores[:, 0] for part in ("forget", "test")}
    difference = gains["forget"][:, None] - gains["test"][None, :]
    figures = headline(own, unit.references)
    assert tuple(figures) == HEADLINE
    assert figures["calibrated_auc"] == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean())
    assert figures["retain_accuracy"] == own["retain"].accuracy


@pytest.mark.parametrize("name", FAMILIES)
def test_every_method_runs_within_its_budget(unit, name):
    family = FAMILIES[name]
    recipe = family.recipe(family.coarse[0])
    record = run_recipe(unit, recipe, 0.5)
    assert record.diverged == ""
    assert record.gradient_samples > 0.0
    assert record.gradient_samples - record.budget < 8 + 12 + 16 / 3 + 1e-9
    assert set(record.differences) == set(HEADLINE)
    assert len(family.coarse) == 8
    assert record.fingerprint == run_recipe(unit, recipe, 0.5).fingerprint != run_recipe(unit, recipe, 0.4).fingerprint


def test_a_diverged_run_counts_as_one_that_did_nothing(unit):
    recipe = FAMILIES["fine_tune"].recipe({"lr": 1e12, "batch": 8.0})
    record = run_recipe(unit, recipe, 0.5)
    assert "lower lr" in record.diverged
    assert record.headline == headline(unit.outputs["original"], unit.references)


def test_the_table_is_made_resumed_and_made_again_from_its_records(tmp_path, monkeypatch):
    said = []
    for name in PLAN.families:  # two configurations each instead of eight
        monkeypatch.setitem(FAMILIES, name, replace(FAMILIES[name], coarse=FAMILIES[name].coarse[:2]))
    summary = table.make_table(PLAN, tmp_path, jobs=1, notify=said.append)
    assert len(said) == 3 + 2 + 2
    assert [row.name for row in summary.rows] == ["original", "floor", "fine_tune", "game"]
    assert tuple(summary.margins) == HEADLINE
    (comparison,) = summary.comparisons
    runs = [read(run_path(tmp_path, 0.5, name, 0), RunRecord) for name in ("game", "fine_tune")]
    others = [read(run_path(tmp_path, 0.5, name, 1), RunRecord) for name in ("game", "fine_tune")]
    assert comparison.difference.value == pytest.approx((runs[0].gap - runs[1].gap + others[0].gap - others[1].gap) / 2)
    text = (tmp_path / "table.md").read_text()
    assert "6 of 16 fictitious authors forgotten" in text
    assert json.loads((tmp_path / "table.json").read_text())["schema"].startswith("amu-fast-table")

    def forbidden(*_, **__):
        raise AssertionError("nothing is to be run again")

    monkeypatch.setattr(table, "run_recipe", forbidden)
    again = table.make_table(PLAN, tmp_path, jobs=1, notify=said.append)
    assert replace(again, provenance=summary.provenance).to_json() == summary.to_json()
    with pytest.raises(DataError, match="another task"):
        table.make_table(replace(PLAN, task=replace(TASK, epochs=3.0)), tmp_path, jobs=1, notify=said.append)


def test_unknown_methods_are_named():
    with pytest.raises(DataError, match="nonsense"):
        table.LanguagePlan(families=("nonsense",))
