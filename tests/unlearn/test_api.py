from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from digits import network, weights

import amu_fast.unlearn as au
from amu_fast.audit.attacks import LinearSvmAttack, LossThreshold, Outputs
from amu_fast.errors import BackendError, DataError
from amu_fast.report.report import Report

QUICK = au.Stackelberg(epochs=1.0, batch_size=64)


@pytest.fixture(scope="module")
def parts(splits):
    return {name: splits.rows(name).part() for name in ("retain", "forget", "validation", "test")}


@pytest.fixture(scope="module")
def result(trained, parts):
    return au.unlearn(trained, **parts, method=QUICK, seed=4)


def test_one_call_unlearns_and_measures(result, trained, parts, splits):
    assert torch.equal(weights(result.model), weights(QUICK.unlearn(trained, splits, seed=4).model))
    metrics = result.report.metrics
    with torch.no_grad():
        right = (result.model(parts["test"][0]).argmax(1) == parts["test"][1]).double().mean()
    assert metrics["test_accuracy"].value == pytest.approx(float(right))
    assert {"retain_accuracy", "forget_accuracy", "loss_auc_game_rows_vs_test"} <= set(metrics)
    attacks = {attack.name: attack for attack in result.report.attacks}
    assert attacks["loss"].in_game
    assert not attacks["linear SVM on all scores"].in_game
    assert attacks["loss"].members == 100
    assert set(result.report.provenance.data_hashes) == set(parts)


def test_without_test_rows_nothing_is_measured(trained, parts):
    given = {name: part for name, part in parts.items() if name != "test"}
    report = au.unlearn(trained, **given, method=au.FineTune(epochs=0.3)).report
    assert not report.metrics
    assert not report.attacks


def test_attacks_that_need_more_rows_say_so_and_the_model_is_kept(trained, parts):
    few = {**parts, "forget": tuple(t[:3] for t in parts["forget"])}
    result = au.unlearn(trained, **few, method=au.FineTune(epochs=0.3))
    assert result.report.metrics["logistic regression on the loss"].value is None
    assert "at least 10 rows" in result.report.metrics["logistic regression on the loss"].reason
    assert [attack.name for attack in result.report.attacks] == ["loss"]


def test_overlapping_parts_are_refused(trained, parts):
    with pytest.raises(DataError, match="retain and forget share"):
        au.unlearn(trained, **{**parts, "forget": parts["retain"]})


def test_saved_files_restore_model_and_report(result, tmp_path):
    from safetensors.torch import load_file

    folder = result.save(tmp_path / "new" / "out")
    figures = {"players.png", "losses.png", "roc.png"}
    files = {"report.json", "model.safetensors", "audit.json", "report.html", *figures}
    assert {path.name for path in folder.iterdir()} == files
    assert (folder / "roc.png").read_bytes()[:4] == b"\x89PNG"
    model = network()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    assert torch.equal(weights(model), weights(result.model))
    assert Report.load(folder / "report.json").cost == result.report.cost
    assert json.loads((folder / "report.json").read_text())["seed"] == 4


def test_tied_weights_are_saved(result, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].weight = model[0].weight
    au.Result(model, result.report).save(tmp_path, figures=False)
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "model.safetensors"}


@pytest.mark.parametrize("package", ["safetensors.torch", "matplotlib.figure"])
def test_a_missing_package_is_named_before_anything_is_written(result, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BackendError, match=f"need.* {package.split('.')[0]}"):
        result.save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "ctrl-c"])
def test_an_interrupted_save_leaves_the_old_files_whole(result, tmp_path, monkeypatch, fault):
    au.Result(result.model, result.report).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fails(*_):
        raise fault

    monkeypatch.setattr("os.fsync", fails)
    expected = DataError if isinstance(fault, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        au.Result(network(), result.report).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_audit_of_a_model_equals_the_attack_on_its_splits(trained, parts, splits):
    loss, _, svm = au.audit(trained, parts["forget"], parts["test"], validation=parts["validation"])
    assert loss.auc == LossThreshold().run(trained, splits).auc
    assert svm.auc == LinearSvmAttack().run(trained, splits).auc
    assert loss.auc.value > 0.6


def test_audit_of_scores_by_row_number_or_as_a_pair():
    rng = np.random.default_rng(0)
    members, others = rng.normal(0.5, 1, 60), rng.normal(0, 1, 80)
    together = np.concatenate([others, members])
    (one,) = au.audit(together, range(80, 140), range(80), attacks=[LossThreshold()])
    (two,) = au.audit((members, others), attacks=[LossThreshold()])
    assert one.auc == two.auc
    logits, labels = rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
    pair = (Outputs.from_logits(logits, labels), Outputs.from_logits(logits, labels))
    assert au.audit(pair, attacks=[LossThreshold()])[0].auc.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.arange(10.0), range(5), range(4, 10)), r"share 1 rows, among them \[4\]"),
        ((torch.arange(10.0), range(5), range(5, 12)), "must lie in 0 to 9"),
        ((torch.arange(10.0), [], range(5)), "must lie in 0 to 9"),
        ((torch.arange(10.0),), "needs members and nonmembers"),
        ((torch.tensor([float("nan")] * 20), range(10), range(10, 20)), "NaN|nan|finite"),
    ],
)
def test_bad_audits(arguments, message):
    with pytest.raises(DataError, match=message):
        au.audit(*arguments, attacks=[LossThreshold()])


def test_import_is_light():
    heavy = ("sklearn", "scipy.stats", "matplotlib", "triton", "rich", "typer", "pydantic", "safetensors")
    code = f"""
import sys, torch
before = set(sys.modules)
import amu_fast.unlearn
new = set(sys.modules) - before
print([h for h in {heavy!r} if h in new], torch.cuda.is_initialized())
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.split("\n")[0] == "[] False"
