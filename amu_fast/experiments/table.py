"""Makes the table: prepare units, tune, judge, aggregate; resumable at every record, on worker processes.

Each worker computes on one thread, so the figures do not depend on how many workers there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from amu_fast.experiments.families import ABLATION, FAMILIES, Family
from amu_fast.experiments.population import Population
from amu_fast.experiments.records import (
    Search,
    UnitRecord,
    check_fingerprint,
    read,
    run_path,
    save,
    search_path,
    unit_path,
)
from amu_fast.experiments.render import figure, markdown
from amu_fast.experiments.runs import UNLEARNING_ROLE, RunRecord, fingerprint, run_method
from amu_fast.experiments.summary import Summary, row_names, summarise
from amu_fast.experiments.tasks import DEMO_TASK, QUICK_TASK, TABLE_TASK, Task
from amu_fast.experiments.tuning import tune
from amu_fast.experiments.units import Unit, prepare_unit
from amu_fast.experiments.workers import Job, Notify, run_jobs
from amu_fast.report.provenance import config_hash, plain
from amu_fast.report.writing import write_atomic

TUNING_UNITS = (900, 901)


@dataclass(frozen=True)
class Plan:
    """What a table is made of.

    Attributes:
        task: What its units share.
        units: Judged.
        tuning_units: Where methods are tuned.
        shares: Budgets, shares of retraining's gradient samples.
        families: Methods, by name.
        rounds: Refinements of each search.
    """

    task: Task = TABLE_TASK
    units: tuple[int, ...] = tuple(range(10))
    tuning_units: tuple[int, ...] = TUNING_UNITS
    shares: tuple[float, ...] = (0.05, 0.125)
    families: tuple[str, ...] = tuple(family.name for family in FAMILIES)
    rounds: int = 2


QUICK = Plan(QUICK_TASK, units=(0, 1, 2), families=("fine_tune", "moment_matching", "stackelberg"), rounds=1)
DEMO = Plan(
    DEMO_TASK,
    units=tuple(range(6)),
    shares=(0.125,),
    families=("fine_tune", "neg_grad_plus", "moment_matching", "stackelberg"),
)


def make_table(
    plan: Plan,
    folder: Path,
    *,
    data_dir: Path | None = None,
    jobs: int = 2,
    notify: Notify | None = None,
) -> Summary:
    """Make what is missing below `folder`, then aggregate everything.

    Args:
        plan: Of the table.
        folder: Where records are; one plan's task per folder.
        data_dir: Where data files are looked for first.
        jobs: Worker processes; 1 works in this process.
        notify: Told of every finished piece; None: a line on the standard error stream.

    Raises:
        DataError: Missing or damaged data, or records of another task.
    """
    rows = row_names(plan.families)
    ignored = folder / "units" / ".gitignore"
    if not ignored.is_file():
        write_atomic(ignored, b"*\n")
    place = _Place(plan, folder, data_dir)
    prepare: list[Job] = [partial(_prepare, place, unit) for unit in (*plan.tuning_units, *plan.units)]
    # slow searches first, so that no worker is left alone with one
    pairs = [(family, share) for share in sorted(plan.shares, reverse=True) for family in plan.families]
    search: list[Job] = [partial(_search, place, family, share) for family, share in pairs]
    judge: list[Job] = [partial(_judge, place, unit, share, rows) for unit in plan.units for share in plan.shares]
    for title, phase in (("units", prepare), ("searches", search), ("judged", judge)):
        run_jobs(title, phase, jobs, notify)
    summary = summarise(folder, plan.units, plan.tuning_units, plan.shares, plan.families)
    write_summary(summary, folder)
    return summary


def write_summary(summary: Summary, folder: Path) -> None:
    """The three files that readers want; each is whole or absent."""
    write_atomic(folder / "table.png", figure(summary))
    write_atomic(folder / "table.md", markdown(summary).encode())
    write_atomic(folder / "table.json", summary.to_json().encode())


@dataclass(frozen=True)
class _Place:
    plan: Plan
    folder: Path
    data_dir: Path | None

    def unit(self, seed: int) -> Unit:
        population = _population(self.plan.task, self.data_dir)
        return prepare_unit(self.plan.task, seed, self.folder / "units", population=population)


@lru_cache(maxsize=1)
def _population(task: Task, data_dir: Path | None) -> Population:
    return task.population(data_dir)


def _prepare(place: _Place, seed: int) -> str:
    unit, path = place.unit(seed), unit_path(place.folder, seed)
    if not path.is_file():
        save(path, UnitRecord.of(unit))
    record = read(path, UnitRecord)
    task = plain(place.plan.task)
    check_fingerprint(path, config_hash([record.task, record.data_digest]), config_hash([task, unit.data_digest]))
    return f"unit {seed}: calibrated AUC of the original {record.positive_control.value:.3f}"


def _search(place: _Place, name: str, share: float) -> str:
    units = [place.unit(seed) for seed in place.plan.tuning_units]
    best = tune(place.folder, _family(name), share, units, place.plan.rounds).best
    chosen = ", ".join(f"{key} {value:.3g}" for key, value in best.parameters.items())
    return f"{name} at {100 * share:g} %: {chosen}, gap {best.gap:.2f}"


def _judge(place: _Place, seed: int, share: float, rows: Sequence[str]) -> str:
    unit = place.unit(seed)
    gaps = [f"{row} {_row(place, unit, share, row).gap:.2f}" for row in rows]
    return f"unit {seed} at {100 * share:g} %, gaps: {', '.join(gaps)}"


def _row(place: _Place, unit: Unit, share: float, row: str) -> RunRecord:
    family = _family("stackelberg" if row in ABLATION else row)
    parameters = read(search_path(place.folder, share, family.name), Search).best.parameters
    method = family.build(parameters, share * unit.task.epochs, unit.task)
    if row in ABLATION:
        method = ABLATION[row][1](method)
    path = run_path(place.folder, share, row, unit.seed)
    if path.is_file():
        record = read(path, RunRecord)
        expected = fingerprint(unit, method, unit.training_seed(UNLEARNING_ROLE), full=True)
        check_fingerprint(path, record.fingerprint, expected)
        return record
    record = run_method(unit, method, parameters=parameters).record
    save(path, record)
    return record


def _family(name: str) -> Family:
    return next(family for family in FAMILIES if family.name == name)
