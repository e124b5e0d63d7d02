"""The most memory that a call takes beyond what was in use before it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): resets the peak resident set size


def with_peak(call: Callable[[], T], device: torch.device | None = None) -> tuple[T, float]:
    """Result of a call and the bytes it took at most, beyond those before it.

    On a GPU what torch allocated there; on Linux the process's resident set, allocator and interpreter included, to a
    page; elsewhere NaN.
    """
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        return result, float(torch.cuda.max_memory_allocated(device) - before)
    try:
        _RESET.write_text(_RESET_PEAK)
    except OSError:  # not Linux, or a kernel without it: there is no such figure
        return call(), math.nan
    start = _kibibytes("VmRSS")
    result = call()
    return result, 1024.0 * (_kibibytes("VmHWM") - start)


def _kibibytes(name: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return float(line.split()[1])
