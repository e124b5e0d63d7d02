"""examples/tofu.py as a user runs it, on authors made for it and on TOFU itself."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from amu_fast.experiments.language.tofu_files import synthetic_tofu, write_files

SCRIPT = Path(__file__).parents[3] / "examples" / "tofu.py"


@pytest.fixture
def script(monkeypatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("examples_tofu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "examples_tofu", module)
    spec.loader.exec_module(module)
    return module


def test_the_pipeline_on_made_authors(script, tmp_path, monkeypatch, capsys):
    """Ten forget authors that the original knows by heart, as two retrained models do not."""
    data = tmp_path / "authors"
    write_files(data, synthetic_tofu(authors=100, questions=1, held_out=30, seed=1))
    quick = replace(script.QUICK, epochs=12.0, hidden=16, lr=3e-2, batch=32, rows=4, new_tokens=2)
    monkeypatch.setattr(script, "QUICK", quick)
    arguments = ["--quick", "--data-dir", str(data), "--methods", "npo", "game", "--out", str(tmp_path)]
    assert script.main([*arguments, "--device", "cpu"]) == 0
    record = json.loads((tmp_path / "tofu.json").read_text())
    models = record["models"]
    assert list(models) == ["original", "retrain", "retrain 2", "npo", "game"]
    printed = capsys.readouterr().out
    assert all(name in printed for name in models)
    assert record["rows"] == {"retain": 90, "forget": 10, "game": 10, "tune": 10, "test": 10}
    assert record["cluster_claims"]
    assert models["original"]["auc_interval"]["low"] > models["retrain"]["auc"]
    assert models["retrain"]["forget_quality"] == 1.0
    assert models["retrain"]["auc_less_retrain"]["value"] == 0.0
    assert all(0.0 <= figures["utility"] <= 1.0 for figures in models.values())
    assert all(math.isfinite(v) for m in models.values() for part in m["parts"].values() for v in part.values())
    assert record["provenance"]["data"]["full.json"] == hashlib.sha256((data / "full.json").read_bytes()).hexdigest()
    assert record["methods"]["npo"]["beta"] == 0.1


def test_no_epochs_are_refused(script, tmp_path, capsys):
    assert script.main(["--quick", "--epochs", "0", "--out", str(tmp_path)]) == 2
    assert "--epochs must be > 0, got 0.0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_one_line(script, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("AMU_FAST_DATA", raising=False)
    assert script.main(["--data-dir", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "synth-authors" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("AMU_FAST_DATA"), reason="AMU_FAST_DATA names no folder with TOFU's files")
@pytest.mark.parametrize(("forget", "claims"), [("forget01", False), ("forget10", True)])
def test_the_pipeline_on_tofu(script, tmp_path, monkeypatch, forget, claims):
    """The published files, a model too small to know them: every metric is there, of nine parts of utility all."""
    monkeypatch.setattr(script, "QUICK", replace(script.QUICK, epochs=0.3, unlearn_epochs=1.0, rows=6))
    folder = os.environ["AMU_FAST_DATA"]
    assert script.main(["--quick", "--data-dir", folder, "--forget", forget, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "tofu.json").read_text())
    assert record["cluster_claims"] == claims
    assert all(
        set(m["parts"]) == {"retain", "forget", "real_authors", "world_facts"} for m in record["models"].values()
    )
    assert ("auc_interval" in record["models"]["game"]) == claims
