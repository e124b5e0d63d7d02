"""The frozen record of one run: how the model came about, what it cost and what it reveals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amu_fast.audit.intervals import Interval
from amu_fast.errors import DataError
from amu_fast.report import codec
from amu_fast.report.provenance import Provenance, plain
from amu_fast.report.writing import write_atomic

if TYPE_CHECKING:
    from amu_fast.audit.attacks import AttackResult

SCHEMA = "amu-fast-report/1"


@dataclass(frozen=True)
class MethodRecord:
    """A method's name and its whole configuration as plain values."""

    name: str
    config: Mapping[str, Any]

    @staticmethod
    def of(method: Any) -> MethodRecord:
        """From a method object."""
        return MethodRecord(method.name, plain(method))


@dataclass(frozen=True)
class Cost:
    """What a run used.

    Attributes:
        gradient_samples: rows through forward and backward, a forward alone counting a third.
        budget: gradient samples that the run was allowed.
        seconds: wall time.
        steps: optimiser steps.
        stopped: whether a callback ended the run before its budget.
    """

    gradient_samples: float
    budget: float
    seconds: float
    steps: int
    stopped: bool = False


@dataclass(frozen=True)
class Metric:
    """A value with its interval, or the reason why there is none.

    Attributes:
        value: the value; None where it is undefined.
        interval: its interval, which names its own scope (S1).
        n: rows behind it.
        reason: why it is undefined, or what to mind.
    """

    value: float | None
    interval: Interval | None = None
    n: int | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.value is None and not self.reason:
            raise DataError("a metric without a value needs a reason; pass Metric(None, reason=...)")

    @staticmethod
    def of(interval: Interval) -> Metric:
        """From an interval."""
        return Metric(interval.value, interval, sum(interval.sizes), interval.note or None)


@dataclass(frozen=True)
class AttackRecord:
    """An attack's figures without its scores, which would reveal membership themselves.

    Attributes:
        name: the attack's name.
        auc: area under the ROC curve.
        tpr: per false-positive rate, the true-positive rate.
        members: rows judged.
        nonmembers: rows judged.
        in_game: whether the model was unlearned against it.
        accuracy: with both sides weighted alike; None where no threshold was chosen.
        f1: likewise.
        difference: AUC minus retrain's on the same rows (S6); None where there is no retrained model.
    """

    name: str
    auc: Interval
    tpr: Mapping[float, Interval]
    members: int
    nonmembers: int
    in_game: bool
    accuracy: float | None = None
    f1: float | None = None
    difference: Interval | None = None

    @staticmethod
    def of(result: AttackResult, retrain: AttackResult | None = None) -> AttackRecord:
        """From an attack's result, and the same attack's result on the retrained model."""
        return AttackRecord(
            name=result.name,
            auc=result.auc,
            tpr=dict(result.tpr),
            members=result.members,
            nonmembers=result.nonmembers,
            in_game=result.in_game,
            accuracy=result.accuracy,
            f1=result.f1,
            difference=None if retrain is None else result.difference_to(retrain, level=result.auc.level),
        )


@dataclass(frozen=True)
class Report:
    """One run of one method. `replace(report, metrics=..., attacks=...)` adds what was measured afterwards.

    Attributes:
        method: name and configuration.
        seed: the run's seed.
        history: columns of equal length, one entry per step, None where a step recorded nothing: step, used, lr,
            retain_loss, payoff, permuted_payoff, auditor_accuracy, loss_gap, gradient_bound, game_on, ...
        cost: what the run used.
        provenance: code, data and machine.
        metrics: name to value and interval; None where it was not measured.
        attacks: one record per attack, those of the game and those outside it.
    """

    method: MethodRecord
    seed: int
    history: Mapping[str, tuple[float | None, ...]]
    cost: Cost
    provenance: Provenance
    metrics: Mapping[str, Metric | None] = field(default_factory=dict)
    attacks: tuple[AttackRecord, ...] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.history.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(
                f"history columns must have equal lengths, got {lengths}; put None where nothing was recorded"
            )

    def to_json(self) -> str:
        """Strict JSON; NaN and infinity become null, with the reason in the table `undefined`."""
        return codec.dumps(self, SCHEMA)

    @staticmethod
    def from_json(text: str | bytes) -> Report:
        """The report that `to_json` wrote; DataError names the path of what does not fit."""
        return codec.loads(text, Report, SCHEMA)

    def save(self, path: str | Path) -> Path:
        """Write the JSON atomically."""
        return write_atomic(path, self.to_json().encode())

    @staticmethod
    def load(path: str | Path) -> Report:
        """Read a saved report."""
        try:
            return Report.from_json(Path(path).read_bytes())
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; pass the path of a report.json") from error
