"""The example with Accelerate forgets, and goes on bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

accelerate = pytest.importorskip("accelerate")
pytest.importorskip("transformers")
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import accelerate_loop

    yield accelerate_loop
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def test_forgets_and_goes_on_bit_for_bit(example, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    found = example.main(["--quick", "--steps", "8", "--out", str(whole)])
    before, after = found["before"], found["after"]
    assert before["loss_gap"] < -1.0
    assert after["loss_gap"] > 0.8 * before["loss_gap"]
    assert after["auditor_accuracy"] < before["auditor_accuracy"]
    assert after["retain_loss"] < before["retain_loss"]

    shutil.copytree(whole / "step-00000004", stopped / "step-00000004")
    assert example.main(["--quick", "--steps", "8", "--resume", "--out", str(stopped)]) == found
    for name in ("model.safetensors", "optimizer.safetensors", "unlearn_state.json"):
        assert (stopped / "step-00000008" / name).read_bytes() == (whole / "step-00000008" / name).read_bytes()
