"""What other programs start: torchrun, and DeepSpeed's engine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="the ranks are forks")]

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "distributed.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def output_of(*command: object) -> str:
    """Standard output; all that was started ends with it."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, errors
    return output


@pytest.mark.parametrize("options", [(), ("--fsdp",)])
def test_torchrun_prints_what_one_process_prints(options):
    pytest.importorskip("transformers", reason='pip install -e ".[hf]"')
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    printed = [output_of(*start, EXAMPLE, "--steps", 3, *options) for start in ((), torchrun)]
    assert re.fullmatch(r"(step +\d+  payoff -\d\.\d{6}\n){2}parameters .*\n", printed[0])
    numbers = [[float(x) for x in re.findall(r"[+-]?\d+\.\d+", text)] for text in printed]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4, abs=1e-4)


def test_zero_shards_the_same_game(tmp_path):
    """Stages 1 and 3 on two ranks err as float32 does on one: their master weights are of it, whatever the model's."""
    pytest.importorskip("deepspeed", reason="deepspeed is not installed; pip install deepspeed (DS_BUILD_OPS=0)")
    pytest.importorskip("transformers", reason='pip install -e ".[hf]"')
    output_of(HERE / "zero.py", tmp_path)
    codes = json.loads((tmp_path / "codes.json").read_text())
    assert not any(codes), "\n".join(path.read_text() for path in tmp_path.rglob("*.error"))
    one, single = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "single"))
    error = (single["parameters"] - one["parameters"]).norm()
    for stage in (1, 3):
        for rank in range(2):
            mine = torch.load(tmp_path / str(stage) / f"{rank}.pt")
            assert (mine["parameters"] - one["parameters"]).norm() <= 2 * error
            payoffs = [[values["payoff"] for values in run["history"]] for run in (mine, one)]
            assert payoffs[0] == pytest.approx(payoffs[1], rel=1e-5)
