"""The measurement of large Llamas, on a tiny one."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers")
from amu_fast.bench import llama_steps


@pytest.mark.parametrize("lora", [False, True])
def test_a_tiny_llama_is_measured(tmp_path, capsys, lora):
    if lora:
        pytest.importorskip("peft")
    out = tmp_path / "record.json"
    assert llama_steps.main(["--smoke", "--device", "cpu", "--out", str(out), *(["--lora"] if lora else [])]) == 0
    record = json.loads(out.read_text())
    game, training = record["steps"]["game"], record["steps"]["training"]
    assert (training["tokens"], game["tokens"]) == (4 * 10, (4 + 16) * 10)
    assert game["tokens_per_second"] == pytest.approx(game["tokens"] / game["median"])
    assert (record["trained"] < record["parameters"]) == lora
    assert "tokens/s" in capsys.readouterr().out
