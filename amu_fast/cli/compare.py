"""`amu-fast compare`: methods × forget sets × budgets under equal tuning, on units that nobody tuned on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from amu_fast.errors import DataError
from amu_fast.experiments.compare.engine import make_comparison
from amu_fast.experiments.compare.plan import ComparePlan, forget_set, quick
from amu_fast.experiments.compare.render import document, write
from amu_fast.experiments.compare.table import summarise
from amu_fast.experiments.deep_tasks import DeepTask
from amu_fast.experiments.tasks import Task


def run_compare(
    *,
    data: str | None,
    data_dir: Path | None,
    device: str | None,
    methods: Sequence[str],
    forget_sets: Sequence[str],
    shares: Sequence[float],
    units: int | None,
    trials: int | None,
    small: bool,
    sensitivity: bool,
    summarise_only: bool,
    jobs: int,
    out: Path,
    as_json: bool,
) -> None:
    """Make, go on with, or only summarise a comparison.

    Raises:
        DataError: Options, data or records are unusable.
    """
    if jobs < 1:
        raise DataError(f"jobs must be >= 1, got {jobs}")
    plan = _plan(data, device, methods, forget_sets, shares, units, trials, small)
    if not sensitivity:
        plan = replace(plan, sensitivity=None)
    if summarise_only:
        compared = summarise(plan, out)
        write(compared, out)
    else:
        compared = make_comparison(plan, out, data_dir=data_dir, jobs=jobs)
    print(compared.to_json() if as_json else document(compared), end="")
    print(f"compare.md, compare.json and a picture for each forget set are in {out}", file=sys.stderr)


def _plan(
    data: str | None,
    device: str | None,
    methods: Sequence[str],
    forget_sets: Sequence[str],
    shares: Sequence[float],
    units: int | None,
    trials: int | None,
    small: bool,
) -> ComparePlan:
    """The default plan, made small or not, with what was asked for in place of its own."""
    plan = quick(ComparePlan()) if small else ComparePlan()
    if device is not None:
        deep = DeepTask(device=device)
        plan = replace(plan, task=deep if data is None else replace(deep, data=data))
    elif data is not None:
        plan = replace(plan, task=task_on(data, plan.task))
    if methods:
        plan = replace(plan, methods=tuple(methods))
    if forget_sets:
        plan = replace(plan, forget_sets=tuple(map(forget_set, forget_sets)))
    if shares:
        plan = replace(plan, shares=tuple(shares))
    if units is not None:
        plan = replace(plan, units=tuple(range(units)))
    return plan if trials is None else replace(plan, trials=trials)


def task_on(data: str, task: Task) -> Task:
    """The task on another data set; small ones get as many rows as they have."""
    if data == "fashion-mnist":
        return task
    if data == "mnist-5k":
        return replace(task, data=data, train=2_500, validation=800, test=1_700, noise=0.05, unlearn_batch=32)
    if data == "digits":
        small = replace(task, train=800, validation=300, test=600, batch_size=32, unlearn_batch=16)
        return replace(small, data=data, noise=0.1, width=8, hidden=64)
    return replace(task, data=data)
