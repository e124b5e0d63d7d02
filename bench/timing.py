"""Interleaved rounds: every contender runs in every round, so that what else the machine does meets all of them.

A round calls each contender at least once and, if it is quick, for `SLICE` seconds; every call is timed by itself
and inputs rotate with the call's number. Reported are the median and the 20th and 80th percentile.
"""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from amu_fast.bench.contender import Call

SLICE = 0.02
MOST_CALLS = 50
LEAST_ROUNDS = 3
MOST_ROUNDS = 60

Clock = Callable[[Callable[[], Any]], float]


class OutOfTime(BaseException):
    """A contender was stopped. Not an `Exception`, which a peer may swallow."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` inside the block after some seconds, at the next step of the interpreter."""

    def stop(*_: object) -> None:
        raise OutOfTime(f"stopped after {seconds:.3g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wall_clock(call: Callable[[], Any]) -> float:
    """Seconds of one call on the CPU."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def device_clock(call: Callable[[], Any]) -> float:
    """Seconds between two events around one call on the current stream; waits for the device."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def clock_of(device: torch.device) -> Clock:
    """Device events on a GPU, else the wall clock."""
    return device_clock if device.type == "cuda" else wall_clock


@dataclass(frozen=True)
class Times:
    """Seconds per call: median, 20th and 80th percentile, and how many calls they come from."""

    median: float
    p20: float
    p80: float
    samples: int

    @staticmethod
    def of(values: list[float]) -> Times:
        """Of at least one value."""
        if len(values) == 1:
            return Times(values[0], values[0], values[0], 1)
        low, *_, high = statistics.quantiles(values, n=5, method="inclusive")
        return Times(statistics.median(values), low, high, len(values))


def interleave(
    calls: Mapping[str, Call], seconds: float, clock: Clock, shares: Mapping[str, float] | None = None
) -> dict[str, Times]:
    """Time all calls in rounds until each has used its share of `seconds`, with at least LEAST_ROUNDS rounds.

    Args:
        calls: name -> call, each warmed up by the caller.
        seconds: budget of all together; a call so slow that three rounds exceed its share twice over runs once.
        clock: how one call is timed.
        shares: name -> weight of its share (default 1).
    """
    weights = {name: (shares or {}).get(name, 1.0) for name in calls}
    budget = {name: seconds * weights[name] / sum(weights.values()) for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for done in range(MOST_ROUNDS):
        waiting = [name for name in calls if _continues(done, spent[name], budget[name])]
        if not waiting:
            break
        for name in waiting:
            started = time.perf_counter()
            for _ in range(MOST_CALLS):
                number = len(times[name])
                times[name].append(clock(lambda name=name, number=number: calls[name](number)))  # type: ignore[misc]
                if time.perf_counter() - started >= SLICE:
                    break
            spent[name] += time.perf_counter() - started
    return {name: Times.of(values) for name, values in times.items()}


def _continues(done: int, spent: float, budget: float) -> bool:
    if done == 0:
        return True
    if done < LEAST_ROUNDS:
        return spent / done * (done + 1) <= 2 * budget
    return spent / done * (done + 1) <= budget
