"""The most memory that a call holds at once, beyond what was allocated before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def peak(call: Callable[[], Any], device: torch.device) -> float:
    """Bytes of tensors; on the CPU from the profiler's record of every allocation."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return float(torch.cuda.max_memory_allocated(device) - before)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    kineto: Any = profile.profiler
    changes = [
        (event.start_ns(), event.nbytes()) for event in kineto.kineto_results.events() if event.name() == "[memory]"
    ]
    held = most = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        held += change
        most = max(most, held)
    return float(most)
