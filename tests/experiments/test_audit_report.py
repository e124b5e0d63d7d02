"""The audit of one model of a unit: each figure equals what it is made from, and both controls are there."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from amu_fast.audit.attacks import CalibratedLoss, LinearSvmAttack, LossThreshold, PaperAttack
from amu_fast.audit.attacks.outputs import Outputs, SplitOutputs
from amu_fast.audit.judging import judge
from amu_fast.audit.margins import Margins
from amu_fast.audit.metrics import auc
from amu_fast.audit.scores import log_likelihood, logits_and_loss
from amu_fast.audit.verdict import Conditions
from amu_fast.errors import DataError
from amu_fast.experiments.audit_report import make_audit, scores_in_game
from amu_fast.experiments.evaluate import differences, headline
from amu_fast.experiments.runs import run_method
from amu_fast.experiments.units import prepare_unit
from amu_fast.report.document import PARTS, AuditDocument
from amu_fast.report.private import keyed_id
from amu_fast.report.report import MethodRecord
from amu_fast.unlearn import methods

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def unit(tiny_task, tmp_path_factory):
    return prepare_unit(tiny_task, 0, tmp_path_factory.mktemp("units"))


@pytest.fixture(scope="module")
def run(unit):
    return run_method(unit, methods.Stackelberg(epochs=3.0, weight=1.0, batch_size=20, rows_per_side=20), full=False)


@pytest.fixture(scope="module")
def audit(unit, run):
    return make_audit(unit, run, key=KEY)


def test_every_part_but_robustness_is_there(audit):
    document, _ = audit
    assert {part for part in PARTS if getattr(document, part) is None} == {"robustness"}
    assert document.missing == {"robustness": "Relearning and quantisation were not tried."}
    assert AuditDocument.from_json(document.to_json()) == document


def test_differences_are_those_of_the_experiments(audit, unit, run):
    document, _ = audit
    table = document.comparison
    assert [row.name for row in table.rows] == ["another retrain", "unlearned", "original"]
    retrain = headline(unit.outputs["retrain"], unit.references)
    for row, outputs in zip(table.rows, (unit.outputs["floor"], run.outputs, unit.outputs["original"]), strict=True):
        expected = differences(headline(outputs, unit.references), retrain)
        assert {name: values[0] for name, values in row.differences.items()} == pytest.approx(expected)
        assert all(row.interval(name).contains(expected[name]) for name in ("forget_accuracy", "attack_auc"))
    assert table.mean_gap(table.methods[0]) == pytest.approx(run.record.gap)
    assert table.margins == pytest.approx(
        {"retain_accuracy": 1.0, "forget_accuracy": 3.0, "test_accuracy": 1.0, "attack_auc": 5.0}
    )


def test_values_are_each_models_own(audit, unit):
    document, _ = audit
    assert list(document.values) == ["unlearned", "retrained", "original", "another retrain"]
    expected = headline(unit.outputs["retrain"], unit.references)
    assert {name: metric.value for name, metric in document.values["retrained"].items()} == pytest.approx(expected)


def test_the_verdict_is_that_of_judge_on_the_same_models(audit, unit, run):
    document, _ = audit
    models = {"unlearned": run.outputs, **{role: unit.outputs[role] for role in ("retrain", "original", "floor")}}
    attacks = [
        CalibratedLoss(unit.references),
        LossThreshold(in_game=True),
        LinearSvmAttack(),
        PaperAttack(in_game=True),
    ]
    expected = judge(models, attacks, margins=Margins())
    assert document.verdict.outcome == expected.outcome
    assert document.verdict.exit_code == expected.exit_code
    assert [reason.code for reason in document.verdict.reasons] == list(expected.reasons)
    assert [claim.state for claim in document.verdict.claims] == [claim.state.value for claim in expected.claims]
    assert document.verdict.thresholds == Margins().to_plain()


def test_retrain_itself_is_not_found_wanting(unit):
    """The retrained model's own outputs as the unlearned ones: every difference is 0, nothing is violated."""
    same = run_method(unit, methods.FineTune(epochs=1.0, batch_size=20), full=False)
    document, _ = make_audit(unit, replace(same, outputs=unit.outputs["retrain"]))
    unlearned = document.comparison.methods[0]
    assert set(unlearned.differences.values()) == {(0.0,)}
    assert not any(claim.state == "VIOLATED" for claim in document.verdict.claims)
    assert document.verdict.outcome != "fails"
    assert document.examples.unlearned == document.examples.retrained


def test_overlapping_splits_leave_no_certificate(unit, run):
    document, _ = make_audit(unit, run, [LossThreshold()], conditions=Conditions(splits_overlap=True))
    assert (document.verdict.outcome, document.verdict.exit_code) == ("no_certificate", 2)


def test_attacks_stand_beside_their_controls_and_are_marked(audit, unit, run):
    document, _ = audit
    rows = {row.record.name: row for row in document.attacks}
    marks = {name: row.record.in_game for name, row in rows.items()}
    assert marks == {
        "calibrated loss": False,
        "loss": True,
        "linear SVM on all scores": False,
        "logistic regression on the loss": True,
    }
    assert rows["loss"].how.startswith("Score -loss; a fixed direction")

    def loss_auc(outputs):
        return auc(-outputs.forget.loss, -outputs.test.loss)

    retrain = loss_auc(unit.outputs["retrain"])
    loss = rows["loss"]
    assert loss.record.difference.value == pytest.approx(loss_auc(run.outputs) - retrain)
    assert loss.positive.value == pytest.approx(loss_auc(unit.outputs["original"]) - retrain)
    assert loss.negative.value == pytest.approx(loss_auc(unit.outputs["floor"]) - retrain)
    assert (loss.positive.level, loss.negative.level) == (0.95, 0.90)


def test_curves_are_of_fixed_scores_only(audit):
    document, _ = audit
    drawn = {(curve.attack, curve.model) for curve in document.roc}
    names = ("calibrated loss", "loss", "linear SVM on all scores")
    assert drawn == {(name, model) for name in names for model in ("unlearned", "retrained", "original")}
    assert {curve.in_game for curve in document.roc if curve.attack == "loss"} == {True}


def test_single_rows_are_counted_in_the_document_and_named_in_the_private_table(audit, unit, run):
    document, private = audit
    attack = CalibratedLoss(unit.references)
    before, after = (attack.run(outputs).member_scores for outputs in (unit.outputs["original"], run.outputs))
    numbers = unit.splits.rows("forget").base_index()
    by_id = {row.id: row for row in private.forget}
    for place in (0, 17, 59):
        row = by_id[keyed_id(KEY, int(numbers[place]))]
        assert (row.before, row.after) == (before[place], after[place])
    assert len(private.worst) == document.examples.worst == 1
    assert private.worst[0].after == after.max()
    damaged = unit.outputs["original"].retain.correct & ~run.outputs.retain.correct
    assert document.examples.regressions == len(private.regressions) == damaged.sum()
    assert document.examples.unlearned.rows == 60


def test_ids_differ_between_audits_without_a_key(unit, run):
    (_, first), (_, second) = (make_audit(unit, run, [LossThreshold()]) for _ in range(2))
    assert not {row.id for row in first.forget} & {row.id for row in second.forget}
    assert [row.after for row in first.forget] == [row.after for row in second.forget]


def test_cost_and_provenance(audit, unit, run):
    document, _ = audit
    assert document.cost.run == run.result.report.cost
    assert document.cost.speed_up.value == pytest.approx(unit.seconds["retrain"] / run.record.seconds)
    assert document.cost.peak_memory.reason == "not measured"
    assert document.provenance.config_hash == run.result.report.provenance.config_hash
    assert set(document.provenance.data_hashes) == {"retain", "forget", "validation", "test"}
    assert document.subject.rows == {"retain": 140, "forget": 60, "validation": 120, "test": 400}
    assert document.history == run.result.report.history


def test_no_score_of_a_row_is_in_the_document(audit, run):
    document, _ = audit
    phi, loss = run.outputs.forget.phi, run.outputs.forget.loss
    shared = json.dumps(json.loads(document.to_json()))
    assert not any(repr(float(value)) in shared for value in (*phi, *loss))


def test_peak_memory_is_shown_where_it_was_measured(unit, run):
    document, _ = make_audit(unit, run, [LossThreshold()], peak_memory=3.0 * 2**20)
    assert document.cost.peak_memory.value == 3.0 * 2**20
    assert document.cost.peak_memory.reason is None


def test_a_bare_model_has_no_history_and_no_cost(unit):
    document, _ = make_audit(unit, unit.original, [LossThreshold(), CalibratedLoss(unit.references)])
    assert document.history is None
    assert "given as it is" in document.missing["history"]
    assert document.cost.seconds.value is None
    assert np.isnan(document.comparison.methods[0].seconds[0])
    assert document.subject.method == MethodRecord("model as given", {})
    text = document.to_json()
    assert AuditDocument.from_json(text).to_json() == text


def test_each_attack_runs_once_per_model(unit, run):
    """Attacks with shadow models are expensive."""
    seen = []

    class Counts(LossThreshold):
        def run(self, target, splits=None):
            seen.append(target)
            return super().run(target, splits)

    make_audit(unit, run, [Counts(), CalibratedLoss(unit.references)])
    roles = ("retrain", "original", "floor")
    assert {id(target) for target in seen} == {id(run.outputs), *(id(unit.outputs[role]) for role in roles)}
    assert len(seen) == 4


def test_an_attack_that_cannot_run_is_reported_with_its_reason(unit, run):
    class Refuses:
        name = "picky"

        def run(self, target, splits):
            raise DataError("too few rows for me")

    document, _ = make_audit(unit, run, [Refuses(), LossThreshold(), CalibratedLoss(unit.references)])
    assert [row.record.name for row in document.attacks] == ["loss", "calibrated loss"]
    assert document.values["unlearned"]["picky"].reason == "too few rows for me"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (methods.FineTune(), (False, False)),
        (methods.ScoreMomentMatching(scores=log_likelihood), (True, False)),
        (methods.ScoreMomentMatching(scores=logits_and_loss), (True, True)),
        (methods.Stackelberg.as_published(), (True, True)),
    ],
)
def test_which_scores_were_in_the_game(method, expected):
    assert scores_in_game(MethodRecord.of(method)) == expected


def test_outputs_without_answers_are_refused(unit, run):
    scores = Outputs.from_scores(np.arange(60.0))
    blind = SplitOutputs(scores, scores, scores, scores)
    with pytest.raises(DataError, match=r"no answers|rows"):
        make_audit(unit, replace(run, outputs=blind), [LossThreshold()])
