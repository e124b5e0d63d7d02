"""Runs that are killed, and runs on two ranks, go on as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("checkpoint_run.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_runs_and_two_ranks_go_on_bit_for_bit(tmp_path):
    """One process for all, as importing torch takes longest; no device, whose threads a fork would not copy."""
    tests = str(SCRIPT.parent.parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": tests}
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])

    killed = found["killed"]
    assert killed["final"] == killed["expected"]
    assert killed["final"].startswith("end ")
    assert len(killed["lost"]) >= 20
    assert max(killed["lost"]) == 0  # no step that was saved; a save may be done before it can be reported
    assert killed["inside"] >= 8  # those that died while forcing files to the disk, and others
    assert killed["left"] == ["step-00000029", "step-00000030"]

    for wrapper in ("ddp", "fsdp"):
        for rank in found["ranks"][wrapper]:
            assert rank["resumed"]
            assert rank["differs_by_rank"]
            assert rank["other_wrapper"]
            assert "got 2; go on from that checkpoint" in rank["step_not_later"]
            assert "rank 1: a checkpoint cannot hold the object" in rank["bad_on_rank_1"]
            assert rank["still"] == "step-00000002"

    assert len(found["dying"]) > 15
    assert set(found["dying"]) == {2, 3}
    assert found["dying"] == sorted(found["dying"])  # the old state up to the rename, the new one from there
