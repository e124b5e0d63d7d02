"""The example of a plain loop forgets, and goes on bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("transformers")
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import plain_loop

    return plain_loop


def test_forgets_and_goes_on_bit_for_bit(example, tmp_path, capsys):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    found = example.main(["--quick", "--steps", "10", "--out", str(whole)])
    before, after = found["before"], found["after"]
    assert before["loss_gap"] < -1.0  # members lose less
    assert after["loss_gap"] > 0.7 * before["loss_gap"]
    assert after["auditor_accuracy"] < before["auditor_accuracy"]
    assert after["payoff"] < before["payoff"]
    assert after["retain_loss"] < before["retain_loss"]
    assert "auditor_accuracy: +0." in capsys.readouterr().out

    with pytest.raises(SystemExit):
        example.main(["--quick", "--out", str(whole)])
    assert "--resume" in capsys.readouterr().err

    shutil.copytree(whole / "step-00000005", stopped / "step-00000005")
    assert example.main(["--quick", "--steps", "10", "--resume", "--out", str(stopped)]) == found
    for name in ("model.safetensors", "optimizer.safetensors", "unlearn_state.json"):
        assert (stopped / "step-00000010" / name).read_bytes() == (whole / "step-00000010" / name).read_bytes()
