"""The command line as a user meets it: output, JSON, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from amu_fast import __version__
from amu_fast.audit.metrics import auc, phi


def amu_fast(*arguments, check=None):
    done = subprocess.run([sys.executable, "-m", "amu_fast.cli", *map(str, arguments)], capture_output=True, text=True)
    assert check is None or done.returncode == check, done.stderr
    return done


@pytest.fixture
def scores(tmp_path):
    rng = np.random.default_rng(0)
    files = {"members": rng.normal(1, 1, 300), "nonmembers": rng.normal(0, 1, 400)}
    for name, values in files.items():
        np.save(tmp_path / f"{name}.npy", values)
    return tmp_path, files


def test_version_and_help():
    assert amu_fast("--version", check=0).stdout.strip() == __version__
    listed = amu_fast("--help", check=0).stdout
    assert all(command in listed for command in ("demo", "unlearn", "audit", "doctor"))


def test_audit_of_scores_prints_json_with_the_auc(scores):
    folder, files = scores
    done = amu_fast(
        "audit", "--members", folder / "members.npy", "--nonmembers", folder / "nonmembers.npy", "--json", check=0
    )
    document = json.loads(done.stdout)
    assert document["auc"]["value"] == pytest.approx(auc(files["members"], files["nonmembers"]))
    assert document["auc"]["low"] < document["auc"]["value"] < document["auc"]["high"]
    assert document["scope"] == "this model"


def test_audit_of_logits_uses_the_true_class(tmp_path):
    rng = np.random.default_rng(1)
    logits = {side: rng.normal(size=(50, 3)) for side in ("in", "out")}
    labels = {side: rng.integers(0, 3, 50) for side in ("in", "out")}
    for side in ("in", "out"):
        np.save(tmp_path / f"{side}.npy", logits[side])
        np.savetxt(tmp_path / f"{side}.csv", labels[side], delimiter=",")
    files = ["--members", tmp_path / "in.npy", "--nonmembers", tmp_path / "out.npy"]
    named = [*files, "--member-labels", tmp_path / "in.csv", "--nonmember-labels", tmp_path / "out.csv"]
    document = json.loads(amu_fast("audit", *named, "--json", check=0).stdout)
    expected = auc(phi(logits["in"], labels["in"]), phi(logits["out"], labels["out"]))
    assert document["auc"]["value"] == pytest.approx(expected)
    assert "--member-labels" in amu_fast("audit", *files, check=2).stderr


def test_bad_files_exit_with_2_and_one_line(scores):
    folder, _ = scores
    (folder / "words.csv").write_text("not,numbers\n")
    (folder / "model.pt").write_bytes(b"\x80\x04K\x01.")
    for name, message in (
        ("absent.npy", "does not exist"),
        ("words.csv", "does not hold numbers"),
        ("model.pt", ".npy or .csv"),
    ):
        done = amu_fast("audit", "--members", folder / name, "--nonmembers", folder / "nonmembers.npy", check=2)
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr


def test_a_pickle_is_never_opened(tmp_path, scores):
    folder, _ = scores
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    done = amu_fast("audit", "--members", tmp_path / "objects.npy", "--nonmembers", folder / "nonmembers.npy", check=2)
    assert "does not hold numbers" in done.stderr


def test_doctor_reports_every_operator_and_its_own_health():
    document = json.loads(amu_fast("doctor", "--json", check=0).stdout)
    assert document["healthy"]
    served = {(row["operator"], row["device"]) for row in document["backends"]}
    assert {("amu_fast::glm_hvp", "CPU"), ("amu_fast::auditor_step", "CUDA")} <= served
    assert len(document["checks"]) == 2
    text = amu_fast("doctor", check=0).stdout
    assert "extension" in text
    assert "glm_hvp" in text


def test_unlearn_prints_an_example_and_refuses_a_missing_file(tmp_path):
    assert "method:" in amu_fast("unlearn", "--example", check=0).stdout
    assert "absent.yaml does not exist" in amu_fast("unlearn", tmp_path / "absent.yaml", check=2).stderr
