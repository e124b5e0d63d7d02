"""k ranks equal one rank to rounding, and a rank that is gone ends the job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason='the ranks train a tiny Llama; pip install -e ".[hf]"')
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the ranks are forks")

SCRIPT = Path(__file__).with_name("ranks.py")
SEVERAL = (2, 3)


@dataclass(frozen=True)
class Found:
    """By the number of ranks and the rank; None where a rank failed."""

    ranks: dict[tuple[int, int], dict[str, Any]]
    example: dict[tuple[int, int], dict[str, Any]]
    faults: dict[str, Any]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Found:
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, SCRIPT, folder], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "found.json").read_text())
    failed = "\n".join(path.read_text() for path in folder.glob("*.error"))
    assert not any(report["codes"]["ranks"] + report["codes"]["example"]), failed

    def load(prefix: str) -> dict[tuple[int, int], dict[str, Any]]:
        return {
            (size, rank): torch.load(folder / f"{prefix}{size}-{rank}.pt") for size in (1, 2, 3) for rank in range(size)
        }

    return Found(load(""), load("example-"), report["faults"])


@pytest.mark.parametrize("size", SEVERAL)
def test_collectives_are_their_formulas(found, size):
    for rank in range(size):
        collected = found.ranks[size, rank]["collectives"]
        assert len(collected["pairs"]) > 70
        for name, (mine, expected) in collected["pairs"].items():
            torch.testing.assert_close(mine, expected, rtol=1e-14, atol=0, msg=lambda m, name=name: f"{name}: {m}")
            if not name.startswith(("gradient", "mean")):
                assert torch.equal(mine, expected), name
        assert collected["sent"] == {"everything": 2, "nothing": 1}


@pytest.mark.parametrize("size", SEVERAL)
def test_every_rank_refuses_what_one_does_otherwise(found, size):
    for rank in range(size):
        refused = found.ranks[size, rank]["collectives"]["refused"]
        assert refused.pop("agreed") == ""
        assert "x must be (n, ...) rows" in refused.pop("scalar")
        odd = f"rank(s) [{size - 1}] differ from rank 0"
        assert set(refused) == {"dtype", "columns", "clusters", "number", "bit"}
        assert all(odd in message for message in refused.values())
        assert "clusters of members must be of one dtype" in refused["clusters"]
        assert ("here none" in refused["clusters"]) == (rank == size - 1)
        assert f"weight must be equal on all ranks, {odd} (here {5.0 + (rank == size - 1)})" in refused["number"]


def close(a: Any, b: Any, rtol: float, what: str) -> None:
    """Nested numbers and tensors; a NaN where the other has one."""
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol, equal_nan=True, msg=lambda message: f"{what}: {message}")


@pytest.mark.parametrize("size", SEVERAL)
def test_k_ranks_equal_one(found, size):
    runs = [run for run in found.ranks[size, 0] if run.endswith(("ddp", "fsdp")) and not run.startswith("float32")]
    assert len(runs) >= 6
    for run in runs:
        one = found.ranks[1, 0][f"{run.split()[0]} none"]
        for rank in range(size):
            mine = found.ranks[size, rank][run]
            for key in ("parameters", "history", "state"):
                close(mine[key], one[key], rtol=1e-9, what=f"{run}, rank {rank}, {key}")
            assert torch.equal(mine["parameters"], found.ranks[size, 0][run]["parameters"])


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
def test_single_precision_errs_as_on_one_rank(found, wrapper):
    exact = found.ranks[1, 0]["idle none"]["parameters"]
    single = found.ranks[1, 0]["float32 none"]["parameters"]
    mine = found.ranks[3, 0][f"float32 {wrapper}"]["parameters"]
    assert mine.dtype == torch.float32
    assert (mine - exact).norm() <= 2 * (single - exact).norm()


def test_the_cases_test_what_they_say(found):
    """The cap ends a game, the bank is full, and every case moves its model away from that of another."""
    one = found.ranks[1, 0]
    capped = one["remembering none"]
    assert {values["game_on"] for values in capped["history"]} == {0.0, 1.0}
    assert capped["state"]["cap"]["count"] == 3
    assert capped["state"]["bank"]["members"][0].shape == (50, 1)
    exact = one["exact none"]["parameters"]
    for case in ("idle", "remembering", "micro"):
        assert (one[f"{case} none"]["parameters"] - exact).norm() > 1e-4


@pytest.mark.parametrize(("size", "rank"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_the_example_is_the_same_on_any_number_of_ranks(found, size, rank):
    """With DDP on two, with FSDP2 on three."""
    close(found.example[size, rank], found.example[1, 0], rtol=1e-4, what="example")
    assert len(found.example[1, 0]["payoffs"]) == 1


def test_a_rank_that_is_gone_ends_the_job(found):
    alone, killed, stalled = (found.faults[name] for name in ("alone", "killed", "stalled"))
    assert alone["codes"] == [1, -9]  # the other rank's connection is closed
    assert killed["codes"] == stalled["codes"] == [0]
    assert "ChildFailedError" in killed["error"]
    # whichever end is seen first
    assert "SIGKILL" in killed["error"] or "Connection" in killed["error"]
    assert "rank      : 0" in stalled["error"]
    assert "Timed out waiting 5000ms" in stalled["error"]
    assert max(fault["seconds"] for fault in found.faults.values()) < 60
