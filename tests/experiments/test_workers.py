"""Worker processes end with the process that began them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from amu_fast.experiments.workers import run_jobs

PARENT = """
from functools import partial
from pathlib import Path
import sys
from amu_fast.experiments.workers import run_jobs
sys.path.insert(0, {here!r})
from test_workers import hold
if __name__ == "__main__":
    run_jobs("held", [partial(hold, Path({folder!r}) / str(k)) for k in range(1)], 2)
"""


def hold(path: Path) -> str:
    """Say which process this is, then go on for longer than any test."""
    path.with_suffix(".part").write_text(str(os.getpid()))
    path.with_suffix(".part").rename(path)
    time.sleep(600)
    return "woke"


def fail_or_tell(number: int) -> str:
    if number == 1:
        raise ValueError("job 1 failed")
    return f"job {number}"


def test_every_job_is_told_and_the_first_error_is_raised():
    told = []
    run_jobs("some", [partial(fail_or_tell, number) for number in (0, 2)], 1, told.append)
    assert [line.split("] ")[1] for line in told] == ["job 0", "job 2"]
    with pytest.raises(ValueError, match="job 1 failed"):
        run_jobs("some", [partial(fail_or_tell, number) for number in (0, 1)], 1, told.append)


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for the workers in /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(here=str(Path(__file__).parent), folder=str(tmp_path)))
    parent = subprocess.Popen([sys.executable, str(script)])
    files = [tmp_path / "0"]
    try:
        _until(lambda: all(file.is_file() for file in files), seconds=120)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    workers = [int(file.read_text()) for file in files]
    _until(lambda: not any(map(_runs, workers)), seconds=30)


def _until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def _runs(process: int) -> bool:
    """Zombies that nobody waited for do not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False
