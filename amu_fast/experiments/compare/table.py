"""From a comparison's records to one document, its tables and its pictures; nothing else goes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amu_fast.audit.intervals import Interval, paired_t, t_interval
from amu_fast.experiments.aggregate import Comparison, Row, compare, margins_of, method_row, reference_row
from amu_fast.experiments.compare.plan import ComparePlan
from amu_fast.experiments.records import Search, UnitRecord, read, run_path, search_path, unit_path
from amu_fast.experiments.runs import RunRecord
from amu_fast.experiments.summary import UnitControls
from amu_fast.report import codec
from amu_fast.report.provenance import Provenance, plain

SCHEMA = "amu-fast-compare/1"
GAME = "stackelberg"


@dataclass(frozen=True)
class Sensitivity:
    """What half and double the weight do to a method's gap, paired by unit, in points.

    Attributes:
        method: Row.
        weight: Which parameter.
        value: Chosen.
        half: Gap at half the weight minus gap at the chosen one.
        double: The same of twice the weight.
        collapses: Of both, of twice as many runs as there are units.
    """

    method: str
    weight: str
    value: float
    half: Interval
    double: Interval
    collapses: int


@dataclass(frozen=True)
class ForgetTable:
    """All of one forget set.

    Attributes:
        forget_set: Its name.
        task: Configuration.
        margins: Per headline metric, in points.
        rows: References first, then every method at every budget it can pay.
        tow: Of each row, in the same order.
        unaffordable: Budget, in words, to the methods that it does not pay for.
        comparisons: The game against every other row.
        sensitivity: At one budget.
        controls: Of judged and tuning units.
        searches: With every trial.
        configurations: Row to the whole configuration of its method, by budget.
    """

    forget_set: str
    task: Mapping[str, Any]
    margins: Mapping[str, float]
    rows: tuple[Row, ...]
    tow: tuple[Interval, ...]
    unaffordable: Mapping[str, tuple[str, ...]]
    comparisons: tuple[Comparison, ...]
    sensitivity: tuple[Sensitivity, ...]
    controls: tuple[UnitControls, ...]
    searches: tuple[Search, ...]
    configurations: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Compared:
    """The whole comparison.

    Attributes:
        plan: What it was made of.
        tables: One per forget set.
        provenance: Of the process that made the summary.
    """

    plan: Mapping[str, Any]
    tables: tuple[ForgetTable, ...]
    provenance: Provenance

    def to_json(self) -> str:
        """Strict JSON."""
        return codec.dumps(self, SCHEMA)


def summarise(plan: ComparePlan, folder: Path) -> Compared:
    """Read the plan's records below `folder` and aggregate them.

    Raises:
        DataError: A record is missing, damaged or of another task.
    """
    tables = tuple(_table(plan, folder / kind.title, kind) for kind in plan.forget_sets)
    return Compared(plain(plan), tables, Provenance.collect(plan.task))


def _table(plan: ComparePlan, folder: Path, kind: Any) -> ForgetTable:
    task = plan.task_of(kind)
    judged, others = (
        [read(unit_path(folder, n), UnitRecord) for n in units] for units in (plan.units, plan.tuning_units)
    )
    margins = margins_of(others)
    rows = [reference_row(name, judged, margins) for name in ("original", "floor")]
    tow = [t_interval([unit.panel[name]["tow"] for unit in judged]) for name in ("original", "floor")]
    comparisons, searches, unaffordable = [], [], {}
    configurations: dict[str, Mapping[str, Any]] = {}
    for share in plan.shares:
        paid = [space.name for space in plan.rows(share, task)]
        unaffordable[f"{share:g}"] = tuple(name for name in plan.methods if name not in paid)
        runs = {name: _runs(folder, share, name, plan) for name in paid}
        rows += [method_row(name, share, records, judged, margins) for name, records in runs.items()]
        tow += [t_interval([record.panel["tow"] for record in records]) for records in runs.values()]
        gaps = {name: [record.gap for record in records] for name, records in runs.items()}
        comparisons += [compare(GAME, other, share, gaps) for other in gaps if GAME in gaps and other != GAME]
        searches += [read(search_path(folder, share, name), Search) for name in paid]
        configurations |= {f"{name} at {share:g}": records[0].method.config for name, records in runs.items()}
    return ForgetTable(
        forget_set=kind.title,
        task=judged[0].task,
        margins=margins,
        rows=tuple(rows),
        tow=tuple(tow),
        unaffordable=unaffordable,
        comparisons=tuple(comparisons),
        sensitivity=_sensitivity(plan, folder, task),
        controls=tuple(
            UnitControls(u.unit, u.positive_control, u.negative_control, u.controls_passed) for u in (*judged, *others)
        ),
        searches=tuple(searches),
        configurations=configurations,
    )


def _runs(folder: Path, share: float, row: str, plan: ComparePlan) -> list[RunRecord]:
    return [read(run_path(folder, share, row, unit), RunRecord) for unit in plan.units]


def _sensitivity(plan: ComparePlan, folder: Path, task: Any) -> tuple[Sensitivity, ...]:
    share = plan.sensitivity
    if share is None or share not in plan.shares:
        return ()
    found = []
    for space in plan.rows(share, task):
        chosen, half, double = (_runs(folder, share, f"{space.name}{end}", plan) for end in ("", "-half", "-double"))
        gaps = [[record.gap for record in records] for records in (chosen, half, double)]
        lost = sum(record.collapsed or bool(record.diverged) for record in (*half, *double))
        value = chosen[0].parameters[space.weight]
        found.append(
            Sensitivity(space.name, space.weight, value, paired_t(gaps[1], gaps[0]), paired_t(gaps[2], gaps[0]), lost)
        )
    return tuple(found)
