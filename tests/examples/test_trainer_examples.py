"""The examples of transformers' Trainer forget what they learned, and go on from a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("transformers")
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


def test_llama(tmp_path, monkeypatch, capsys):
    import trainer_llama

    monkeypatch.setattr(trainer_llama, "QUICK", (6, 32, 50, 12))
    found = trainer_llama.main(["--quick", "--out", str(tmp_path / "whole")])
    assert found["before"].auc.low > 0.75
    assert found["after"].gap < 0.7 * found["before"].gap
    assert found["after"].auc.value < found["before"].auc.value
    assert found["test"].against == "test"
    assert "before: step 0, AUC" in capsys.readouterr().out
    shutil.copytree(tmp_path / "whole" / "checkpoint-8", tmp_path / "stopped" / "checkpoint-8")
    assert trainer_llama.main(["--quick", "--resume", "--out", str(tmp_path / "stopped")]) == found


def test_adapters(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    import trainer_llama

    monkeypatch.setattr(trainer_llama, "QUICK", (5, 16, 10, 8))
    found = trainer_llama.main(["--quick", "--lora", "--out", str(tmp_path)])
    assert (found["before"].step, found["test"].against) == (0, "test")
    assert "with LORA" in (tmp_path / "unlearn_report.json").read_text()


def test_classifiers(tmp_path, monkeypatch, capsys):
    import encoder_classifier

    monkeypatch.setattr(encoder_classifier, "QUICK", (60, 12, 4))
    found = encoder_classifier.main(["--quick", "--out", str(tmp_path)])
    assert set(found) == {"bert", "vit", "resnet"}
    printed = capsys.readouterr().out
    for name, (before, after) in found.items():
        assert (before.step, after.step, before.against) == (0, 4, "tune")
        assert (tmp_path / name / "unlearn_report.json").exists()
        assert f"{name:>6}: AUC of the loss attack" in printed


@pytest.mark.slow
def test_all_of_them_as_the_page_says(tmp_path):
    import encoder_classifier
    import trainer_llama

    lora = trainer_llama.main(["--quick", "--lora", "--out", str(tmp_path / "lora")])
    assert lora["before"].auc.low > 0.5
    assert lora["after"].gap < 0.6 * lora["before"].gap
    for name, (before, after) in encoder_classifier.main(["--quick", "--out", str(tmp_path)]).items():
        assert before.gap > 0.0, name
        assert abs(after.gap) < abs(before.gap), name
