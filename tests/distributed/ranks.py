"""All that needs several ranks, from one process: importing torch and transformers takes longer than what is tested.

Run with a folder as argument. Ranks are forks, made before autograd has threads; each leaves what it found in a file.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import training
from collecting import collectives
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel
from training import Case

from amu_fast.audit.gather import gather_rows

CASES = {
    "idle": Case(),
    "float32": Case(dtype=torch.float32),
    "terms": Case(loop="terms", idle=("retain", "forget", "validation")),
    "remembering": Case(loop="terms", remembers=True, capped=True, clusters=True),
    "micro": Case(loop="micro", idle=()),
    "exact": Case(loop="exact", hold=False, clusters=True),
    "classes": Case(model="conv", hold=False),
}
RUNS = {
    1: [(name, "none") for name in CASES],
    2: [(name, wrapper) for name in ("idle", "terms", "micro", "exact") for wrapper in ("ddp", "fsdp")]
    + [("remembering", "fsdp"), ("classes", "fsdp")],
    3: [(name, wrapper) for name in ("idle", "float32") for wrapper in ("ddp", "fsdp")]
    + [("remembering", "ddp"), ("exact", "fsdp"), ("micro", "ddp"), ("classes", "ddp")],
}
"""By the number of ranks."""

EXAMPLE = Path(__file__).parents[2] / "examples" / "distributed.py"


def forked(action: Callable[[], Any], path: Path) -> int:
    """The number of a process that does it; 0 is its exit code if it did, and what was returned is in the file."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.save(action(), path)
        code = 0
    except BaseException:
        traceback.print_exc()
        path.with_suffix(".error").write_text(traceback.format_exc())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pids: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def join(folder: Path, rank: int, size: int, seconds: float = 120.0) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting-of-{size}", timedelta(seconds=seconds), size, rank)


def on_rank(folder: Path, rank: int, size: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if size > 1:
        join(folder, rank, size)
        found["collectives"] = collectives(rank, size)
    for name, wrapper in RUNS[size]:
        found[f"{name} {wrapper}"] = training.run(CASES[name], wrapper, rank, size)
    if size > 1:
        dist.barrier()
    return found


def example(rank: int, size: int, port: int, arguments: list[str]) -> dict[str, Any]:
    """What torchrun would start."""
    if size > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    spec = spec_from_file_location("example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["example"] = module
    spec.loader.exec_module(module)
    return module.main(arguments)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def faulty_step(rank: int, fault: str, started: Callable[[], None]) -> None:
    """Rank 1 scores its rows and is gone before it gathers them."""
    started()
    model = DistributedDataParallel(torch.nn.Linear(3, 1))
    scores = model(torch.ones(4, 3))
    if rank == 1 and fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 1 and fault == "stalled":
        time.sleep(600.0)
    gather_rows(scores).sum().backward()


def launched_rank(fault: str) -> None:
    rank = int(os.environ["RANK"])
    faulty_step(rank, fault, lambda: dist.init_process_group("gloo", timeout=timedelta(seconds=5)))


def launched(fault: str) -> str:
    """As by torchrun: the error that ends the job."""
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, run_id=fault, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=0, monitor_interval=0.1, start_method="fork",
    )  # fmt: skip
    try:
        elastic_launch(config, launched_rank)(fault)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def faults(folder: Path) -> dict[str, Any]:
    """A dead rank without anybody who watches, and dead and stalled ones under torchrun's agent."""
    found: dict[str, Any] = {}
    alone = folder / "alone"
    alone.mkdir()
    start = time.monotonic()
    pids = [
        forked(lambda rank=rank: faulty_step(rank, "killed", lambda: join(alone, rank, 2, 60.0)), alone / f"{rank}.pt")
        for rank in range(2)
    ]
    found["alone"] = {"codes": ended(pids), "seconds": time.monotonic() - start}
    for fault in ("killed", "stalled"):
        start = time.monotonic()
        path = folder / f"{fault}.pt"
        codes = ended([forked(lambda fault=fault: launched(fault), path)])
        found[fault] = {"codes": codes, "seconds": time.monotonic() - start, "error": torch.load(path)}
    return found


def main(folder: Path) -> None:
    pids = [
        forked(lambda rank=rank, size=size: on_rank(folder, rank, size), folder / f"{size}-{rank}.pt")
        for size in RUNS
        for rank in range(size)
    ]
    codes = {"ranks": ended(pids)}
    pids = []
    for size, arguments in ((1, []), (2, []), (3, ["--fsdp"])):
        port = free_port()
        for rank in range(size):
            path = folder / f"example-{size}-{rank}.pt"
            action = [rank, size, port, ["--steps", "2", *arguments]]
            pids.append(forked(lambda action=action: example(*action), path))
    codes["example"] = ended(pids)
    (folder / "found.json").write_text(json.dumps({"codes": codes, "faults": faults(folder)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
