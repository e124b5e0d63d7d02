"""Everything that a shared audit report shows, as one frozen record; what is missing is None with its reason.

No single row's score is in it: those are in `amu_fast.report.private.PrivateTable`, a file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from amu_fast.audit.intervals import Interval
from amu_fast.errors import DataError
from amu_fast.report import codec
from amu_fast.report.binned import Histogram, LossHistograms, RocRecord
from amu_fast.report.comparison import Comparison
from amu_fast.report.provenance import Provenance
from amu_fast.report.report import AttackRecord, Cost, MethodRecord, Metric
from amu_fast.report.verdict_record import VerdictRecord
from amu_fast.report.writing import write_atomic

SCHEMA = "amu-fast-audit/1"


@dataclass(frozen=True)
class Subject:
    """What was judged.

    Attributes:
        method: name and configuration of what made the model.
        seed: of the unlearning; None where the model was given as it is.
        data: name of the data.
        rows: part to number of rows.
        reference: what the model is compared with.
    """

    method: MethodRecord
    seed: int | None
    data: str
    rows: Mapping[str, int]
    reference: str


@dataclass(frozen=True)
class ExampleSummary:
    """How single rows moved, as counts; the rows themselves are in the private table.

    Attributes:
        score: name of the score, higher for members.
        unlearned: change of the score of the forget rows, unlearned minus original.
        retrained: the same for the retrained model; None without one.
        worst: number of rows that the private table marks as the worst 1 %.
        retain_rows: retain rows looked at.
        regressions: retain rows that the original gets right and the unlearned model wrong.
        regressions_retrained: the same for the retrained model; None without one.
    """

    score: str
    unlearned: Histogram
    retrained: Histogram | None
    worst: int
    retain_rows: int
    regressions: int
    regressions_retrained: int | None


@dataclass(frozen=True)
class PanelRow:
    """One attack, with the controls that say whether it can see anything (S11).

    Attributes:
        record: on the judged model; its difference is the one to the retrained model.
        how: what the attack does, in a sentence.
        retrained: AUC on the retrained model.
        positive: AUC on the original minus that on the retrained model.
        negative: AUC on another retrained model minus that on the first.
    """

    record: AttackRecord
    how: str = ""
    retrained: Interval | None = None
    positive: Interval | None = None
    negative: Interval | None = None


@dataclass(frozen=True)
class RobustnessRecord:
    """What a treatment after unlearning brings back.

    Attributes:
        name: the treatment, as "relearning on 100 rows" or "quantisation to 8 bits".
        how: it, in a sentence.
        figure: name of what is measured.
        before: before the treatment.
        after: after it.
        retrained: of the retrained model after the same treatment; None without one.
    """

    name: str
    how: str
    figure: str
    before: Metric
    after: Metric
    retrained: Metric | None = None


@dataclass(frozen=True)
class CostRecord:
    """What unlearning took, beside retraining.

    Attributes:
        run: the run's own account; None where the model was given as it is.
        seconds: wall time.
        retrain_seconds: wall time of retraining on the same machine.
        speed_up: retraining's time over unlearning's.
        peak_memory: bytes.
    """

    run: Cost | None
    seconds: Metric
    retrain_seconds: Metric
    speed_up: Metric
    peak_memory: Metric


PARTS = ("verdict", "comparison", "losses", "roc", "history", "examples", "attacks", "robustness", "cost", "provenance")
"""The ten parts, in the order of the report."""


@dataclass(frozen=True)
class AuditDocument:
    """An audit of one model, to be shared.

    Attributes:
        title: of the report.
        subject: what was judged.
        verdict: part 1.
        comparison: part 2, signed differences to the retrained model.
        losses: part 3.
        roc: part 4.
        history: part 5, both players over the steps.
        examples: part 6, as counts.
        attacks: part 7.
        robustness: part 8.
        cost: part 9.
        provenance: part 10.
        values: model to metric to its own value, beside part 2.
        missing: part to the reason why it is None.
    """

    title: str
    subject: Subject
    verdict: VerdictRecord | None = None
    comparison: Comparison | None = None
    losses: LossHistograms | None = None
    roc: tuple[RocRecord, ...] | None = None
    history: Mapping[str, tuple[float | None, ...]] | None = None
    examples: ExampleSummary | None = None
    attacks: tuple[PanelRow, ...] | None = None
    robustness: tuple[RobustnessRecord, ...] | None = None
    cost: CostRecord | None = None
    provenance: Provenance | None = None
    values: Mapping[str, Mapping[str, Metric | None]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = {f.name for f in fields(self)} & set(PARTS)
        empty = {name for name in names if not getattr(self, name)}
        unexplained, contradicted = sorted(empty - set(self.missing)), sorted(set(self.missing) - empty)
        if unexplained:
            raise DataError(f"the parts {unexplained} are empty; pass missing={{'{unexplained[0]}': 'why'}}")
        if contradicted:
            raise DataError(f"missing names {contradicted}, which are there or no parts; the parts are {PARTS}")

    def to_json(self) -> str:
        """Strict JSON."""
        return codec.dumps(self, SCHEMA)

    @staticmethod
    def from_json(text: str | bytes) -> AuditDocument:
        """The document that `to_json` wrote; DataError names the path of what does not fit."""
        return codec.loads(text, AuditDocument, SCHEMA)

    def save(self, path: str | Path) -> Path:
        """Write the JSON atomically."""
        return write_atomic(path, self.to_json().encode())
