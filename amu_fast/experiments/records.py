"""Records of a table on disk: one small JSON file each, written atomically, found again or refused, never repeated.

DIR/units/*.safetensors                   trained units, rebuilt when missing
DIR/records/unit-10.json                  a unit's reference figures
DIR/records/5pct/stackelberg/unit-10.json one run
DIR/tuning/5pct/stackelberg.json          one search
DIR/table.json, table.md, table.png       made from the records alone
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from amu_fast.audit.intervals import Interval
from amu_fast.errors import DataError
from amu_fast.experiments.evaluate import Controls, headline, panel
from amu_fast.experiments.units import Unit
from amu_fast.report import codec
from amu_fast.report.provenance import plain
from amu_fast.report.writing import write_atomic

T = TypeVar("T", bound="Recorded")
REFERENCES = ("original", "retrain", "floor")


class Recorded(Protocol):
    """A dataclass that is a document of its own."""

    SCHEMA: ClassVar[str]


@dataclass(frozen=True)
class UnitRecord:
    """Reference figures of a unit.

    Attributes:
        unit: Its number.
        task: Configuration.
        data_digest: Of the population.
        headline: Of "original", "retrain" and "floor", fractions.
        panel: Of the same models.
        positive_control: AUC of the calibrated loss on the original (95 % over rows).
        negative_control: The floor's AUC minus retrain's (90 % over rows).
        controls_passed: Lower bound ≥ .55, and equivalence within .05.
        seconds: Of each training.
        retrain_samples: Gradient samples of a retraining.
    """

    SCHEMA: ClassVar[str] = "amu-fast-table-unit/1"

    unit: int
    task: Mapping[str, Any]
    data_digest: str
    headline: Mapping[str, Mapping[str, float]]
    panel: Mapping[str, Mapping[str, float]]
    positive_control: Interval
    negative_control: Interval
    controls_passed: bool
    seconds: Mapping[str, float]
    retrain_samples: float

    @staticmethod
    def of(unit: Unit) -> UnitRecord:
        """Measure the unit's own models."""
        seen = {name: unit.attacked(unit.outputs[name]) for name in REFERENCES}
        controls = Controls.of(seen, [unit.attacked(reference) for reference in unit.references])
        return UnitRecord(
            unit=unit.seed,
            task=plain(unit.task),
            data_digest=unit.data_digest,
            headline={name: headline(unit.outputs[name], unit.references, unit.attacked) for name in REFERENCES},
            panel={name: panel(seen[name]) for name in REFERENCES},
            positive_control=controls.positive,
            negative_control=controls.negative,
            controls_passed=controls.passed,
            seconds=dict(unit.seconds),
            retrain_samples=unit.task.epochs * len(unit.splits.rows("retain")),
        )


@dataclass(frozen=True)
class Trial:
    """One configuration of a search on the tuning units.

    Attributes:
        parameters: The tuned ones.
        round: 0 for the coarse grid, then 1, 2, … for the refinements.
        gaps: Average gap in points, one per tuning unit.
        differences: Signed headline differences, one mapping per tuning unit.
        collapses: Units on which the model collapsed or diverged.
        seconds: Of both runs.
    """

    parameters: Mapping[str, float]
    round: int
    gaps: tuple[float, ...]
    differences: tuple[Mapping[str, float], ...]
    collapses: int
    seconds: float

    @property
    def gap(self) -> float:
        """Mean over the tuning units, what selection goes by."""
        return sum(self.gaps) / len(self.gaps)


@dataclass(frozen=True)
class Search:
    """All trials of one method at one budget, in order.

    Attributes:
        family: Name of the method's row.
        share: Budget as a share of retraining's gradient samples.
        units: Tuning units.
        fingerprint: Hash of task, rows, units and the family's grid; a search with another one is not continued.
        trials: In the order in which they ran.
    """

    SCHEMA: ClassVar[str] = "amu-fast-table-search/1"

    family: str
    share: float
    units: tuple[int, ...]
    fingerprint: str
    trials: tuple[Trial, ...] = ()

    @property
    def best(self) -> Trial:
        """Smallest mean gap; the first of equals."""
        if not self.trials:
            raise DataError(f"the search of {self.family} at {self.share:g} has no trial yet; run it")
        return min(self.trials, key=lambda trial: trial.gap)


def save(path: Path, record: Any) -> None:
    """Write one record, of a class with a `SCHEMA`."""
    write_atomic(path, codec.dumps(record, type(record).SCHEMA).encode())


def read(path: Path, kind: type[T]) -> T:
    """Read one record; DataError, naming the file, if it is missing, damaged or something else."""
    try:
        return codec.loads(path.read_bytes(), kind, kind.SCHEMA)
    except OSError as error:
        raise DataError(f"cannot read the record {path}: {error.strerror}; make the table first") from error
    except DataError as error:
        raise DataError(f"{path}: {error}; delete it to have it made again") from error


def unit_path(folder: Path, unit: int) -> Path:
    """Of a `UnitRecord`."""
    return folder / "records" / f"unit-{unit}.json"


def run_path(folder: Path, share: float, row: str, unit: int) -> Path:
    """Of a `RunRecord`."""
    return folder / "records" / budget_name(share) / row / f"unit-{unit}.json"


def search_path(folder: Path, share: float, family: str) -> Path:
    """Of a `Search`."""
    return folder / "tuning" / budget_name(share) / f"{family}.json"


def budget_name(share: float) -> str:
    """The share in per cent, for folders and headings: .125 → "12.5pct"."""
    return f"{100 * share:g}pct"


def check_fingerprint(path: Path, found: str, expected: str) -> None:
    """Refuse a record of another configuration: mixing two experiments in one table would go unseen."""
    if found != expected:
        raise DataError(
            f"{path} was written for another task, data set or method configuration; pass another --out, or delete "
            "the file to have it made again"
        )
