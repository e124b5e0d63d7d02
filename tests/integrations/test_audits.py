"""Audits: they move nothing, stop in time, and look only at rows outside the game."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from integrations.tiny import arguments, game, llama, rows, splits, trainer, weights
from transformers import TrainerCallback

from amu_fast.audit.delong import auc_interval
from amu_fast.audit.intervals import paired_t, t_interval
from amu_fast.audit.language import sequence_log_likelihood, token_entropy
from amu_fast.errors import DataError
from amu_fast.integrations import Audit, AuditCallback, EarlyStop, UnlearnTrainer
from amu_fast.integrations.audits import Scored, accuracy_change, score_rows
from amu_fast.unlearn.objectives import FineTune, mean_log_likelihoods


def test_audits_move_neither_random_numbers_nor_modes(tmp_path):
    found = []
    for callbacks in ([], [AuditCallback(1)]):
        modes = []

        class Watch(TrainerCallback):
            def on_step_end(self, args, state, control, model=None, modes=modes, **kwargs):
                modes.append([module.training for module in model.modules()])

        taught = trainer(tmp_path, llama(dropout=0.4), callbacks=[*callbacks, Watch()])
        taught.train()
        found.append((weights(taught.model), modes))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_an_audit_is_delongs_interval_of_scores_taken_one_by_one(tmp_path):
    parts = splits(forget=rows(24, 2, people=6), tune=rows(22, 5, people=5))
    taught = trainer(tmp_path, splits=parts, options={"per_device_eval_batch_size": 5}, callbacks=[AuditCallback(4)])
    taught.train()
    model = taught.model.eval()

    def scores(part):
        with torch.no_grad():
            return np.array(
                [-float(model(input_ids=r["input_ids"][None], labels=r["labels"][None]).loss) for r in part]
            )

    people = tuple(np.array([row["clusters"] for row in part]) for part in (parts.forget, parts.tune))
    expected = auc_interval(scores(parts.forget), scores(parts.tune), clusters=people)
    last = taught.audits[-1]
    assert last.step == 4
    assert (last.auc.value, last.auc.low) == pytest.approx((expected.value, expected.low), abs=1e-6)
    assert last.auc.method == "cluster DeLong"
    assert last.difference.level == 0.9
    assert last.difference.value == pytest.approx(last.auc.value - 0.5)
    assert [audit.step for audit in taught.audits] == [0, 4]


def test_a_calibrated_attack_subtracts_the_reference(tmp_path):
    reference = llama()

    def calibrated(part):
        return [
            {
                **row,
                "reference": float(mean_log_likelihoods(reference, {k: row[k][None] for k in ("input_ids", "labels")})),
            }
            for row in part
        ]

    parts = splits(forget=calibrated(rows(6, 2)), tune=calibrated(rows(6, 5)))
    taught = trainer(tmp_path, reference, splits=parts, audit_batch_size=4)
    # against itself every score is 0
    np.testing.assert_allclose(score_rows(taught, "forget", calibrated=True).scores, 0.0, atol=1e-6)
    plain = trainer(tmp_path, llama())
    with pytest.raises(DataError, match="needs the key 'reference'"):
        score_rows(plain, "forget", calibrated=True)


def test_accuracy_is_that_of_the_first_guess_and_its_change_is_paired_by_person(tmp_path):
    parts = splits(tune=rows(22, 5, people=5))
    taught = trainer(tmp_path, splits=parts, callbacks=[AuditCallback(4)], options={"learning_rate": 0.1})

    def shares():
        found = []
        for row in parts.tune:
            with torch.no_grad():
                guess = taught.model.eval()(input_ids=row["input_ids"][None]).logits[0, :-1].argmax(-1)
            counts = row["labels"][1:] != -100
            found.append(float((guess == row["labels"][1:])[counts].double().mean()))
        return np.array(found)

    before = shares()
    taught.train()
    after, people = shares(), np.array([row["clusters"] for row in parts.tune])
    first, last = taught.audits
    assert (first.accuracy, last.accuracy) == pytest.approx((before.mean(), after.mean()))
    assert not np.array_equal(before, after)
    means = [[column[people == person].mean() for person in np.unique(people)] for column in (after, before)]
    assert first.accuracy_change is None
    expected = paired_t(*means, 0.9)
    assert (last.accuracy_change.value, last.accuracy_change.low) == pytest.approx(
        (expected.value, expected.low), abs=1e-6
    )
    assert last.accuracy_change.sizes == (5,)
    logged = [entry for entry in taught.state.log_history if "audit_tune_loss_accuracy_low" in entry]
    assert logged[-1]["audit_tune_loss_accuracy_low"] == last.accuracy_change.low


def test_rows_of_one_label_have_an_interval_that_is_never_empty():
    same = Scored(np.zeros(50), np.ones(50), None)
    change = accuracy_change(same, np.ones(50))
    assert change.method == "Agresti-Min"
    assert change.low < 0.0 < change.high


def audit(step, passes, attack="loss", change=0.0):
    interval = auc_interval([0.0, 1.0], [0.0, 1.0], level=0.9)
    accuracy = t_interval([change - 0.01, change + 0.01] * 20, 0.9)
    return Audit(step, attack, "tune", interval, interval, 0.05, passes, 0.0, False, 0.5, accuracy if step else None)


@pytest.mark.parametrize(("margin", "change", "expected"), [(0.02, -0.05, False), (0.1, -0.05, True), (None, -1, True)])
def test_a_ruined_model_is_no_end(margin, change, expected):
    audits = [audit(0, False), audit(1, True, change=change)]
    assert EarlyStop(accuracy_margin=margin).stops(audits) is expected


def test_without_the_originals_accuracy_only_an_unmargined_run_stops():
    resumed = [replace(audit(7, True), accuracy_change=None)]
    assert not EarlyStop().stops(resumed)
    assert EarlyStop(accuracy_margin=None).stops(resumed)


@pytest.mark.parametrize(
    ("stop", "passes", "expected"),
    [
        (EarlyStop(), [True], False),  # the original: nothing was unlearned
        (EarlyStop(), [False, True], True),
        (EarlyStop(patience=2), [False, True, False, True], False),
        (EarlyStop(patience=2), [False, True, True], True),
        (EarlyStop(after=3), [False, False, True], False),
    ],
)
def test_when_to_stop(stop, passes, expected):
    assert stop.stops([audit(step, p) for step, p in enumerate(passes)]) is expected


def test_a_run_that_goes_on_without_the_originals_accuracy_is_refused(tmp_path):
    first = trainer(tmp_path, options={"save_strategy": "steps", "save_steps": 2, "max_steps": 2})
    first.train()
    callbacks = [AuditCallback(2, stop=EarlyStop())]
    with pytest.raises(DataError, match="accuracy_margin=None"):
        trainer(tmp_path, callbacks=callbacks).train(resume_from_checkpoint=True)


def test_a_run_stops_when_the_attack_finds_nothing(tmp_path):
    """Forget rows and V_tune are the same rows: a difference of 0, and enough of them for the margin."""
    same = rows(40, 2)
    parts = splits(forget=same, tune=same)
    stop = AuditCallback(2, margin=0.15, stop=EarlyStop())
    taught = trainer(tmp_path, splits=parts, callbacks=[stop], options={"max_steps": 20})
    taught.train()
    assert taught.state.global_step == 2
    assert taught.stopped
    assert taught.report().cost.stopped
    assert taught.audits[-1].equivalent


def test_test_rows_are_opened_once(tmp_path):
    with pytest.raises(DataError, match="opened once"):
        AuditCallback(5, against="test")
    with pytest.raises(DataError, match="the game's own rows"):
        AuditCallback(5, against="validation")
    with pytest.raises(DataError, match="there are no tune rows"):
        trainer(tmp_path, splits=splits(tune=None), callbacks=[AuditCallback()])
    taught = trainer(tmp_path, callbacks=[AuditCallback(None, against="test", score=token_entropy)])
    taught.train()
    assert [(a.step, a.against, a.in_game) for a in taught.audits] == [(4, "test", False)]
    assert taught.report().attacks[0].name.endswith("against test")


def test_which_attacks_are_in_the_game(tmp_path):
    callbacks = [AuditCallback(None, name="a"), AuditCallback(None, name="b", score=sequence_log_likelihood)]
    taught = trainer(tmp_path, callbacks=callbacks)
    assert [callback.audit().in_game for callback in callbacks] == [True, True]
    taught.objective = FineTune()
    assert [callback.audit().in_game for callback in callbacks] == [False, False]


def test_a_budget_ends_a_run(tmp_path):
    taught = trainer(tmp_path, budget=20.0, options={"max_steps": 50})
    taught.train()
    # 4 retain rows a step, and 8 + 8/3 auditing rows every second one: 14.7, 18.7, 33.3
    assert taught.state.global_step == 3
    cost = taught.report().cost
    assert (cost.budget, cost.stopped) == (20.0, False)
    assert cost.gradient_samples == pytest.approx(12 + 2 * (8 + 8 / 3))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"budget": 0.0}, "budget must be > 0"),
        ({"exact_accumulation": True, "objective": FineTune()}, "needs an objective with audits, score, solve, replay"),
        ({"options": {"optim": "lomo"}}, "steps inside backward"),
        ({"options": {"average_tokens_across_devices": False}}, "must be True"),
        ({"audit_batch_size": 0}, "audit_batch must be >= 1"),
    ],
)
def test_options_that_cannot_be(tmp_path, given, named):
    with pytest.raises(DataError, match=named):
        trainer(tmp_path, **given)


def test_a_launch_that_transformers_does_not_see_is_refused(tmp_path, monkeypatch):
    args = arguments(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="use_cpu=True"):
        UnlearnTrainer(llama(), args, splits=splits(), objective=game())


def test_a_callback_without_a_trainer_says_so():
    with pytest.raises(DataError, match="audits an UnlearnTrainer"):
        AuditCallback().audit()
    with pytest.raises(DataError, match="every must be"):
        AuditCallback(0)
    with pytest.raises(DataError, match="patience"):
        EarlyStop(patience=0)
    with pytest.raises(DataError, match="accuracy_margin must be > 0"):
        EarlyStop(accuracy_margin=0.0)


def test_evaluation_is_trainers_own(tmp_path):
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=4)
    taught = UnlearnTrainer(
        llama(), args, splits=splits(), objective=game(), audit_batch_size=8, eval_dataset=rows(6, 9)
    )
    taught.train()
    evaluated = [entry for entry in taught.state.log_history if "eval_loss" in entry]
    assert len(evaluated) == 1
    assert evaluated[0]["eval_loss"] == pytest.approx(taught.evaluate()["eval_loss"], rel=1e-5)
