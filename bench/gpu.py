"""Everything that a GPU can show, in one command: the tests that need one, every case, the figures.

Each step is a process of its own with a time limit, so that a kernel that faults or hangs costs its step alone.
What a step printed is in `<out>/<step>.log`, how it ended in `<out>/steps.json`. A second run repeats only steps that
did not end well or that ran on another commit, unless `--again`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from amu_fast.bench import plots
from amu_fast.report.provenance import _commit
from amu_fast.report.writing import write_atomic

ROOT = Path(__file__).resolve().parent.parent
#: Step -> seconds; 840 in all, and the start of each process.
LIMITS = {
    "tests": 100, "p2": 90, "p1": 120, "p3": 60, "p4": 60, "p5": 50,
    "language-memory": 90, "llama": 90, "llama-lora": 60, "smollm2": 120,
}  # fmt: skip
#: Measurements with a command line of their own: module or script, arguments.
_OTHERS = {
    "language-memory": ("-m", "amu_fast.bench.language_memory"),
    "llama": ("-m", "amu_fast.bench.llama_steps"),
    "llama-lora": ("-m", "amu_fast.bench.llama_steps", "--lora"),
    "smollm2": (str(ROOT / "examples" / "tofu.py"),),
}


@dataclass(frozen=True)
class Step:
    """How a step ended: "ok", "failed" or "out of time"."""

    status: str
    seconds: float
    commit: str | None


def run(out: Path, device: str = "cuda", smoke: bool = False, again: bool = False) -> int:
    """Run all steps.

    Args:
        out: folder of records, logs and figures.
        device: "cuda", or "cpu" to try the plumbing.
        smoke: tiny sizes.
        again: repeat steps that ended well, too.

    Returns:
        How many steps did not end well.
    """
    out.mkdir(parents=True, exist_ok=True)
    done = _load(out)
    for name, seconds in LIMITS.items():
        old = done.get(name)
        if old is not None and old.status == "ok" and old.commit == _commit() and not again:
            print(f"{name}: ended well before; --again repeats it", file=sys.stderr)
            continue
        done[name] = _step(out / f"{name}.log", _command(name, out, device, smoke), seconds)
        print(f"{name}: {done[name].status} after {done[name].seconds:.0f} s", file=sys.stderr, flush=True)
        text = json.dumps({key: asdict(step) for key, step in done.items()}, indent=1)
        write_atomic(out / "steps.json", text.encode())
    plots.draw_all(out)
    return sum(step.status != "ok" for step in done.values())


def _command(name: str, out: Path, device: str, smoke: bool) -> list[str]:
    if name == "tests":
        only = ["--collect-only", "-q"] if smoke else []
        return [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *only, str(ROOT / "tests")]
    tiny = ["--smoke"] if smoke else []
    if name == "smollm2":
        # TOFU's files lie where AMU_FAST_DATA says
        size = ["--quick"] if smoke else ["--model", "smollm2", "--forget", "forget10"]
        return [sys.executable, *_OTHERS[name], *size, "--device", device, "--out", str(out / name)]
    if name in _OTHERS:
        return [sys.executable, *_OTHERS[name], *tiny, "--device", device, "--out", str(out / f"{name}.json")]
    return [sys.executable, "-m", "amu_fast.bench", "case", name, "--device", device, "--out", str(out), *tiny]


def _step(log: Path, command: list[str], seconds: float) -> Step:
    started = time.monotonic()
    with log.open("w") as file:
        try:
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=seconds, cwd=ROOT)
            status = "ok" if done.returncode == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "out of time"
    return Step(status, round(time.monotonic() - started, 1), _commit())


def _load(out: Path) -> dict[str, Step]:
    path = out / "steps.json"
    if not path.is_file():
        return {}
    return {name: Step(**facts) for name, facts in json.loads(path.read_text()).items()}
