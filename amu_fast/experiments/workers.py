"""Jobs on worker processes."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from threading import Thread

import torch

Job = Callable[[], str]
Notify = Callable[[str], None]


def run_jobs(title: str, work: Sequence[Job], jobs: int, notify: Notify | None = None) -> None:
    """All jobs of a phase, on `jobs` worker processes; the first error cancels those that have not started.

    Each worker computes on one thread, and ends at once when this process is no more, however that ended: jobs write
    their records atomically, so nothing is lost but the job. `notify` is told of every finished job; None: a line on
    standard error.
    """
    began = time.perf_counter()
    notify = notify or _print

    def tell(done: int, text: str) -> None:
        notify(f"[{title} {done}/{len(work)}, {(time.perf_counter() - began) / 60.0:.1f} min] {text}")

    if jobs == 1:
        for done, text in enumerate(_one_thread(work), start=1):
            tell(done, text)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin)
    try:
        for done, future in enumerate(as_completed([pool.submit(job) for job in work]), start=1):
            tell(done, future.result())
    finally:
        pool.shutdown(cancel_futures=True)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _one_thread(work: Sequence[Job]) -> Iterator[str]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for job in work:
            yield job()
    finally:
        torch.set_num_threads(threads)


def _begin() -> None:
    """Of a worker."""
    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
