"""Makes a comparison: prepare units, search, judge, summarise; resumable at every record, on worker processes.

OUT/units/                                trained units, shared by all forget sets
OUT/<forget set>/tuning, records          as in `experiments.records`
OUT/compare.json, compare.md, pareto-*.png
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from amu_fast.experiments.compare.judge import more
from amu_fast.experiments.compare.plan import ComparePlan
from amu_fast.experiments.compare.render import write
from amu_fast.experiments.compare.search import tune
from amu_fast.experiments.compare.spaces import Parameters, Space, spaces
from amu_fast.experiments.compare.table import Compared, summarise
from amu_fast.experiments.forget_sets import ForgetSet
from amu_fast.experiments.peak import with_peak
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
from amu_fast.experiments.runs import UNLEARNING_ROLE, RunRecord, fingerprint, run_method
from amu_fast.experiments.tasks import Task
from amu_fast.experiments.units import Unit, prepare_unit
from amu_fast.experiments.workers import Job, Notify, run_jobs
from amu_fast.report.provenance import config_hash, plain
from amu_fast.report.writing import write_atomic

FACTORS = {"half": 0.5, "double": 2.0}
"""Of the sensitivity's rows."""


def make_comparison(
    plan: ComparePlan, folder: Path, *, data_dir: Path | None = None, jobs: int = 2, notify: Notify | None = None
) -> Compared:
    """Make what is missing below `folder`, then summarise everything.

    Args:
        plan: Of the comparison.
        folder: Where records are; one plan's task per folder.
        data_dir: Where data files are looked for first.
        jobs: Worker processes, one thread each.
        notify: Told of every finished piece; None: a line on the standard error stream.

    Raises:
        DataError: Missing or damaged data, or records of another task.
    """
    ignored = folder / "units" / ".gitignore"
    if not ignored.is_file():
        write_atomic(ignored, b"*\n")
    places = [_Place(plan, folder, kind, data_dir) for kind in plan.forget_sets]
    numbers = (*plan.tuning_units, *plan.units)
    # units of one number share their original: forget set by forget set, so that no two workers train the same one
    prepare: list[Job] = [partial(_prepare, place, unit) for place in places for unit in numbers]
    pairs = [(share, place) for share in sorted(plan.shares, reverse=True) for place in places]
    searches: list[Job] = [
        partial(_search, place, space.name, share) for share, place in pairs for space in plan.rows(share, place.task)
    ]
    judge: list[Job] = [partial(_judge, place, unit, share) for unit in plan.units for share, place in pairs]
    share = plan.sensitivity
    stretch: list[Job] = [
        partial(_stretch, place, unit, share) for unit in plan.units for place in places if share in plan.shares
    ]
    for title, phase in (("units", prepare), ("searches", searches), ("judged", judge), ("sensitivity", stretch)):
        run_jobs(title, phase, jobs, notify)
    compared = summarise(plan, folder)
    write(compared, folder)
    return compared


@dataclass(frozen=True)
class _Place:
    plan: ComparePlan
    root: Path
    kind: ForgetSet
    data_dir: Path | None

    @property
    def folder(self) -> Path:
        return self.root / self.kind.title

    @property
    def task(self) -> Task:
        return self.plan.task_of(self.kind)

    def unit(self, seed: int) -> Unit:
        population = _population(self.plan.task, self.data_dir)
        return prepare_unit(self.task, seed, self.root / "units", population=population)


@lru_cache(maxsize=1)
def _population(task: Task, data_dir: Path | None) -> Population:
    return task.population(data_dir)


def _prepare(place: _Place, seed: int) -> str:
    unit, path = place.unit(seed), unit_path(place.folder, seed)
    if not path.is_file():
        record = UnitRecord.of(unit)
        own = {name: {**record.panel[name], **more(unit, unit.outputs[name])} for name in record.panel}
        save(path, replace(record, panel=own))
    record = read(path, UnitRecord)
    expected = config_hash([plain(place.task), unit.data_digest])
    check_fingerprint(path, config_hash([record.task, record.data_digest]), expected)
    return f"{place.kind.title}, unit {seed}: calibrated AUC of the original {record.positive_control.value:.3f}"


def _search(place: _Place, name: str, share: float) -> str:
    units = [place.unit(seed) for seed in place.plan.tuning_units]
    best = tune(place.folder, spaces()[name], share, units, place.plan.trials).best
    chosen = ", ".join(f"{key} {value:.3g}" for key, value in best.parameters.items())
    return f"{place.kind.title}, {name} at {100 * share:g} %: {chosen}, gap {best.gap:.2f}"


def _judge(place: _Place, seed: int, share: float) -> str:
    unit, gaps = place.unit(seed), []
    for space in place.plan.rows(share, place.task):
        chosen = read(search_path(place.folder, share, space.name), Search).best.parameters
        gaps.append(f"{space.name} {_row(place, unit, share, space.name, space, chosen).gap:.2f}")
    return f"{place.kind.title}, unit {seed} at {100 * share:g} %, gaps: {', '.join(gaps)}"


def _stretch(place: _Place, seed: int, share: float) -> str:
    """The judged rows once more at half and at double their weight."""
    unit = place.unit(seed)
    for space in place.plan.rows(share, place.task):
        chosen = read(search_path(place.folder, share, space.name), Search).best.parameters
        for word, factor in FACTORS.items():
            _row(place, unit, share, f"{space.name}-{word}", space, stretched(space, chosen, factor))
    return f"{place.kind.title}, unit {seed} at {100 * share:g} %: weights halved and doubled"


def stretched(space: Space, parameters: Parameters, factor: float) -> Parameters:
    """The configuration with its weight times `factor`, as far as the weight may go."""
    value = min(parameters[space.weight] * factor, space.axes[space.weight].most)
    return {**parameters, space.weight: value}


def _row(place: _Place, unit: Unit, share: float, row: str, space: Space, parameters: Parameters) -> RunRecord:
    method = space.build(parameters, share * unit.task.epochs, unit.task)
    path = run_path(place.folder, share, row, unit.seed)
    if path.is_file():
        record = read(path, RunRecord)
        expected = fingerprint(unit, method, unit.training_seed(UNLEARNING_ROLE), full=True)
        check_fingerprint(path, record.fingerprint, expected)
        return record
    run, peak = with_peak(lambda: run_method(unit, method, parameters=parameters))
    figures = {**run.record.panel, **more(unit, run.outputs), "peak_mib": peak / 2**20}
    record = replace(run.record, panel=figures)
    save(path, record)
    return record
