"""Checkpoints: what goes on from one is bit for bit what never stopped; what is not whole is refused."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from integrations.tiny import game, llama, trainer, weights
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback

from amu_fast.audit import ChanceCap, MemoryBank
from amu_fast.errors import DataError
from amu_fast.integrations import AuditCallback
from amu_fast.report import Report

SAVING = {"max_steps": 5, "save_strategy": "steps", "save_steps": 1, "gradient_accumulation_steps": 2}


def remembering():
    return game(cap=ChanceCap(), bank=MemoryBank(30))


def run(folder, resume=None, **given):
    options = {**SAVING, **given.pop("options", {})}
    taught = trainer(
        folder,
        llama(dropout=0.3),
        options=options,
        objective=remembering(),
        callbacks=[AuditCallback(2), *given.pop("callbacks", [])],
        **given,
    )
    taught.train(resume_from_checkpoint=resume)
    return taught


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Five steps in two epochs of three: 21 retain rows, 4 a micro-batch, 2 micro-batches a step."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_run_ends_with_the_same_bits(whole, tmp_path, step):
    """In the middle of an epoch and between two; with dropout, a cap, a bank, and audits."""
    folder, through = whole
    shutil.copytree(folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    on = run(tmp_path, resume=True)
    assert torch.equal(weights(on.model), weights(through.model))
    assert on.recorder.columns() == through.recorder.columns()
    assert on.audits == through.audits
    assert on.objective.leader.cap == through.objective.leader.cap
    states = [t.optimizer.state_dict()["state"] for t in (on, through)]
    assert all(torch.equal(states[0][k]["exp_avg"], states[1][k]["exp_avg"]) for k in states[0])


def test_the_order_of_rows_draws_nothing_from_the_models_generator(tmp_path):
    """Data sets that draw random numbers see those of the step, however the run came there."""
    seen: list[tuple[int, float]] = []

    class Noisy(Dataset):
        def __init__(self, rows):
            self.rows = rows

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, index):
            seen.append((index, float(torch.rand(()))))
            return self.rows[index]

    from integrations.tiny import rows, splits

    noisy = splits(retain=Noisy(rows(21, 1)))
    run(tmp_path, splits=noisy)
    through = list(seen)
    seen.clear()
    run(tmp_path, splits=noisy, resume=str(tmp_path / "checkpoint-2"))
    assert seen == through[-len(seen) :]
    assert len(seen) == 3 * 8


def test_checkpoints_are_whole_and_old_ones_go(whole, tmp_path):
    folder, _ = whole
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    manifest = json.loads((folder / "checkpoint-5" / "unlearn_state.json").read_text())["files"]
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= set(manifest)
    (tmp_path / ".checkpoint-1.staging" / "checkpoint-1").mkdir(parents=True)
    run(tmp_path, options={"save_total_limit": 2})
    assert sorted(path.name for path in tmp_path.glob("*checkpoint*")) == ["checkpoint-4", "checkpoint-5"]


def test_a_save_that_dies_leaves_nothing_visible(tmp_path, monkeypatch):
    class DiskError(OSError):
        pass

    def refuse(self, output_dir):
        raise DiskError("no space")

    monkeypatch.setattr(Trainer, "_save_rng_state", refuse)
    with pytest.raises(DiskError):
        run(tmp_path, options={"save_steps": 2})
    assert [path.name for path in tmp_path.iterdir()] == [".checkpoint-2.staging"]


def test_the_best_checkpoint_has_its_own_name(tmp_path):
    from integrations.tiny import rows

    options = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "eval_loss", "save_total_limit": 1}
    taught = run(tmp_path, options={**options, "load_best_model_at_end": True, "max_steps": 3}, eval_dataset=rows(4, 9))
    best = taught.state.best_model_checkpoint
    assert best is not None
    assert (tmp_path / f"checkpoint-{taught.state.best_global_step}").samefile(best)


def damaged(path):
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-3] ^= 1
    (path / "model.safetensors").write_bytes(data)


def truncated(path):
    data = (path / "optimizer.pt").read_bytes()
    (path / "optimizer.pt").write_bytes(data[:-1])


def missing(path):
    (path / "rng_state.pth").unlink()


def foreign(path):
    (path / "unlearn_state.json").unlink()


def extra(path):
    (path / "pytorch_model.bin").write_bytes(b"not written by us")


def altered(path):
    text = (path / "unlearn_state.json").read_text()
    (path / "unlearn_state.json").write_text(text.replace('"step": 2', '"step": 3'))


def newer(path):
    document = json.loads((path / "unlearn_state.json").read_text())
    (path / "unlearn_state.json").write_text(json.dumps({**document, "version": 99}))


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (damaged, "model.safetensors is damaged"),
        (truncated, "optimizer.pt is truncated"),
        (missing, "rng_state.pth cannot be read"),
        (foreign, "has no readable unlearn_state.json"),
        (extra, "not written with it: pytorch_model.bin"),
        (altered, "does not match its sha256"),
        (newer, "version 99"),
    ],
)
def test_what_is_not_whole_is_refused(whole, tmp_path, harm, named):
    path = shutil.copytree(whole[0] / "checkpoint-2", tmp_path / "checkpoint-2")
    harm(path)
    with pytest.raises(DataError, match=named):
        run(tmp_path, resume=str(path))


def test_another_runs_checkpoint_is_refused_by_what_differs(whole, tmp_path):
    path = str(whole[0] / "checkpoint-2")
    with pytest.raises(DataError, match=r"audit_batch_size 8 there, 9 here; learning_rate 0.01 there, 0.02 here"):
        run(tmp_path, resume=path, audit_batch_size=9, options={"learning_rate": 0.02})
    with pytest.raises(DataError, match="no checkpoint in"):
        run(tmp_path, resume=True)
    # going on for longer is no other run
    assert run(tmp_path, resume=path, options={"max_steps": 6}).state.global_step == 6


def test_the_report_is_there_at_the_end(whole):
    folder, taught = whole
    report = Report.load(folder / "unlearn_report.json")
    assert report.method.name == "game"
    assert report.method.config["objective"]["auditor"]["folds"] == 3
    assert report.method.config["audits"][0]["margin"] == 0.05
    assert report.seed == 3
    assert report.history["step"] == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert [value is None for value in report.history["payoff"]] == [False, True, False, True, False]
    # steps 1, 3, 5 audit 8 rows a side in each of 2 micro-batches; without gradient a row counts a third
    on = 2 * sum(value or 0.0 for value in report.history["game_on"])
    assert report.cost.gradient_samples == pytest.approx(5 * 8 + on * 8 + (6 - on) * 8 / 3 + 6 * 8 / 3, rel=1e-5)
    assert report.history["used"][-1] == report.cost.gradient_samples
    assert {"transformers", "accelerate", "torch"} <= set(report.provenance.versions)
    (attack,) = report.attacks
    assert (attack.name, attack.in_game, attack.members, attack.nonmembers) == ("loss against tune", True, 24, 22)
    logged = [entry for entry in taught.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [2, 4]
    retained = report.history["retain_loss"]
    assert logged[0]["retain_loss"] == pytest.approx((retained[0] + retained[1]) / 2)
    assert all(math.isfinite(value) for value in retained)


def test_a_killed_run_goes_on(whole, tmp_path):
    """Stopped by an exception in the middle of a step, as by a kill: at most the step is lost."""

    class Power(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", callbacks=[Power()])
    on = run(tmp_path / "killed", resume=True)
    assert torch.equal(weights(on.model), weights(whole[1].model))
