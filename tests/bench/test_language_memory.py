"""The memory of a game's step, counted exactly on a small model, and the record's plumbing. Nothing is timed here."""

from __future__ import annotations

import json

import torch

from amu_fast.audit import token_statistics
from amu_fast.bench import language_memory
from amu_fast.bench.language_memory import LIMIT, Size, Steps, memory, peak_bytes

CPU = torch.device("cpu")
MIB = 1 << 20


def test_the_peak_is_what_was_alive_at_once():
    def call():
        first = torch.empty(MIB, dtype=torch.uint8)
        second = torch.empty(2 * MIB, dtype=torch.uint8)
        del first
        third = torch.empty(MIB // 2, dtype=torch.uint8)
        return second.numel() + third.numel()

    assert peak_bytes(call, CPU) == 3 * MIB


def test_temporaries_inside_operators_count():
    x = torch.ones(4, MIB // 4)
    assert peak_bytes(lambda: x.logsumexp(-1), CPU) >= 4 * MIB


def test_scores_need_no_more_than_a_training_step_and_dense_ones_do(monkeypatch):
    monkeypatch.setattr(token_statistics, "_CPU_BYTES", 32 << 10)
    steps = Steps(Size(vocabulary=2000, hidden=16, layers=1, rows=8, length=24), CPU)
    found = memory(steps)
    assert found["training"]["extra"] == 0.0
    assert found["game"]["extra"] <= LIMIT
    assert found["game, eight scores"]["extra"] <= LIMIT
    assert found["game, dense scores"]["extra"] > 0.2
    # and against the leanest training step: the same logits, the same gradient of them
    lean = found["retain loss"]["peak"]
    assert found["game, eight scores"]["peak"] <= (1 + LIMIT) * lean


def test_record(tmp_path):
    path = tmp_path / "language-memory.json"
    assert language_memory.main(["--smoke", "--out", str(path)]) in (0, 1)
    found = json.loads(path.read_text())
    assert set(found["memory"]) >= {"training", "game", "objective"}
    assert found["memory"]["training"]["peak"] > 0
    assert found["seconds"]["training"]["beyond_training"] == 0.0
    assert found["machine"]["threads"] >= 1
