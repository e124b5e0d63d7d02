"""The aggregate of a folder of records: everything that `table.json` holds and `table.md` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amu_fast.audit.intervals import TOST_LEVEL, Interval, t_interval
from amu_fast.errors import DataError
from amu_fast.experiments.aggregate import Comparison, Row, compare, margins_of, method_row, reference_row
from amu_fast.experiments.families import ABLATION, FAMILIES
from amu_fast.experiments.records import Search, UnitRecord, read, run_path, search_path, unit_path
from amu_fast.experiments.runs import RunRecord
from amu_fast.report import codec
from amu_fast.report.provenance import Provenance

SCHEMA = "amu-fast-table/1"


@dataclass(frozen=True)
class UnitControls:
    """The controls of one unit (S11)."""

    unit: int
    positive: Interval
    negative: Interval
    passed: bool


@dataclass(frozen=True)
class Summary:
    """The table.

    Attributes:
        task: Configuration.
        units: Judged units.
        tuning_units: Units of the searches.
        shares: Budgets.
        margins: Per headline metric, in points.
        rows: References first, then every method at every budget.
        comparisons: The game against every other row.
        controls: Of judged and tuning units.
        positive_control: Over the judged units: AUC of the calibrated loss on the original, 95 % t-interval.
        negative_control: Over the judged units: AUC on another retrain minus that on retrain, 90 % t-interval.
        searches: With every trial.
        provenance: Of the process that made the summary.
    """

    task: Mapping[str, Any]
    units: tuple[int, ...]
    tuning_units: tuple[int, ...]
    shares: tuple[float, ...]
    margins: Mapping[str, float]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    controls: tuple[UnitControls, ...]
    positive_control: Interval
    negative_control: Interval
    searches: tuple[Search, ...]
    provenance: Provenance

    def to_json(self) -> str:
        """Strict JSON."""
        return codec.dumps(self, SCHEMA)


def summarise(
    folder: Path, units: Sequence[int], tuning: Sequence[int], shares: Sequence[float], families: Sequence[str]
) -> Summary:
    """Read the records of these units and budgets and aggregate them.

    Raises:
        DataError: A record is missing, damaged or of another task.
    """
    return aggregate(folder, units, tuning, shares, families, row_names(families))


def aggregate(
    folder: Path,
    units: Sequence[int],
    tuning: Sequence[int],
    shares: Sequence[float],
    families: Sequence[str],
    row_names: Sequence[str],
    *,
    game: str = "stackelberg",
    utility: str = "test_accuracy",
    margins_of: Callable[[Sequence[UnitRecord]], Mapping[str, float]] = margins_of,
) -> Summary:
    """Read and aggregate the records of any experiment.

    Args:
        folder: Of the records.
        units: Judged.
        tuning: Units of the searches.
        shares: Budgets.
        families: Methods that were searched.
        row_names: Rows of one budget.
        game: The row that the others are compared with, if it is there.
        utility: The metric that tells a collapse.
        margins_of: The metrics and their margins, from the tuning units.

    Raises:
        DataError: A record is missing, damaged or of another task.
    """
    judged, others = ([read(unit_path(folder, n), UnitRecord) for n in numbers] for numbers in (units, tuning))
    _check_alike([*judged, *others])
    margins = margins_of(others)
    rows = [reference_row(name, judged, margins, utility) for name in ("original", "floor")]
    comparisons = []
    for share in shares:
        runs = {name: [read(run_path(folder, share, name, n), RunRecord) for n in units] for name in row_names}
        rows += [method_row(name, share, records, judged, margins) for name, records in runs.items()]
        gaps = {name: [record.gap for record in records] for name, records in runs.items()}
        if game in gaps:
            comparisons += [compare(game, other, share, gaps) for other in gaps if other != game]
    controls = (
        UnitControls(u.unit, u.positive_control, u.negative_control, u.controls_passed) for u in (*judged, *others)
    )
    return Summary(
        task=judged[0].task,
        units=tuple(units),
        tuning_units=tuple(tuning),
        shares=tuple(shares),
        margins=margins,
        rows=tuple(rows),
        comparisons=tuple(comparisons),
        controls=tuple(controls),
        positive_control=t_interval([u.positive_control.value for u in judged]),
        negative_control=t_interval([u.negative_control.value for u in judged], TOST_LEVEL),
        searches=tuple(read(search_path(folder, share, f), Search) for share in shares for f in families),
        provenance=Provenance.collect(judged[0].task),
    )


def row_names(families: Sequence[str]) -> tuple[str, ...]:
    """Rows of one budget: the tuned methods in their order, the ablation after the game."""
    unknown = set(families) - {family.name for family in FAMILIES}
    if unknown or not families:
        raise DataError(f"methods must be among {[f.name for f in FAMILIES]}, got {sorted(unknown) or 'none'}")
    ordered = [family.name for family in FAMILIES if family.name in families]
    return tuple(n for name in ordered for n in ((name, *ABLATION) if name == "stackelberg" else (name,)))


def _check_alike(units: Sequence[UnitRecord]) -> None:
    for unit in units[1:]:
        if (unit.task, unit.data_digest) != (units[0].task, units[0].data_digest):
            raise DataError(f"units {units[0].unit} and {unit.unit} belong to different tasks; use one folder per task")
