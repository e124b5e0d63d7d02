"""One run of one method on one unit, judged against the unit's retrained model, as a record that JSON can hold."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from amu_fast.audit.attacks.outputs import Outputs, SplitOutputs
from amu_fast.audit.intervals import average_gap
from amu_fast.audit.metrics import collapsed
from amu_fast.errors import SolveError
from amu_fast.experiments.evaluate import differences, headline, panel
from amu_fast.report.provenance import config_hash
from amu_fast.report.report import MethodRecord
from amu_fast.splits import PARTS

if TYPE_CHECKING:
    from amu_fast.experiments.units import Unit
    from amu_fast.protocols import Method

UNLEARNING_ROLE = 100
"""Of the first unlearning seed of a unit, beyond those of its trainings."""


@dataclass(frozen=True)
class RunRecord:
    """What a run was and what it left.

    Attributes:
        unit: Number of the unit.
        seed: Of the unlearning.
        method: Name and whole configuration.
        parameters: The tuned ones, for readers.
        headline: Metrics as fractions.
        panel: The other metrics; empty while tuning.
        differences: Headline minus retrain's.
        gap: Mean absolute difference, in points.
        collapsed: Test accuracy more than 10 points under retrain's.
        diverged: Why there is no model (its metrics are then those of guessing); empty if there is one.
        seconds: Wall time of the unlearning.
        gradient_samples: Used.
        budget: Allowed.
        fingerprint: Hash of the task, the rows, the unit, the seed and the method.
    """

    SCHEMA: ClassVar[str] = "amu-fast-table-run/1"

    unit: int
    seed: int
    method: MethodRecord
    parameters: Mapping[str, float]
    headline: Mapping[str, float]
    panel: Mapping[str, float]
    differences: Mapping[str, float]
    gap: float
    collapsed: bool
    diverged: str
    seconds: float
    gradient_samples: float
    budget: float
    fingerprint: str


@dataclass(frozen=True, eq=False)
class MethodRun:
    """A record with what it was made from.

    Attributes:
        record: The record.
        result: What the method returned; None if it diverged.
        outputs: Of the unlearned model on all four parts.
    """

    record: RunRecord
    result: Any
    outputs: SplitOutputs


def run_method(
    unit: Unit,
    method: Method,
    *,
    parameters: Mapping[str, float] | None = None,
    repeat: int = 0,
    full: bool = True,
    tuning: bool = False,
) -> MethodRun:
    """Run a method on a unit and judge what it left.

    A run that diverges counts as one that guesses: accuracies 1/C, AUC .5; it is never dropped (S2).

    Args:
        unit: Where.
        method: What.
        parameters: Noted in the record.
        repeat: Number of the unlearning seed.
        full: Measure the panel too.
        tuning: Judge by V_tune instead of the test rows, which selection may not see (S16).
    """
    seed = unit.training_seed(UNLEARNING_ROLE + repeat)
    began = time.perf_counter()
    result, diverged = None, ""
    try:
        result = method.unlearn(unit.original, unit.splits, seed=seed)
    except SolveError as error:
        diverged = str(error)
    seconds = time.perf_counter() - began
    outputs = _guesses(unit) if result is None else unit.outputs_of(result.model)
    cost = None if result is None else result.report.cost
    record = RunRecord(
        unit=unit.seed,
        seed=seed,
        method=MethodRecord.of(method),
        parameters=dict(parameters or {}),
        panel=panel(unit.attacked(outputs)) if full else {},
        diverged=diverged,
        seconds=seconds,
        gradient_samples=0.0 if cost is None else cost.gradient_samples,
        budget=0.0 if cost is None else cost.budget,
        fingerprint=fingerprint(unit, method, seed, full),
        **_judged(unit, outputs, tuning),
    )
    return MethodRun(record, result, outputs)


def _judged(unit: Unit, outputs: SplitOutputs, tuning: bool) -> dict[str, Any]:
    """The fields of a record that compare a model with retrain."""
    judged = [outputs, unit.outputs["retrain"], *unit.references]
    mine, other, *references = [unit.tuning(o) for o in judged] if tuning else judged
    view = (lambda o: o) if tuning else unit.attacked
    figures, retrain = (headline(o, references, view) for o in (mine, other))
    difference = differences(figures, retrain)
    return {
        "headline": figures,
        "differences": difference,
        "gap": average_gap(difference),
        "collapsed": collapsed(figures["test_accuracy"], retrain["test_accuracy"]),
    }


def fingerprint(unit: Unit, method: Method, seed: int, full: bool) -> str:
    """Equal for equal runs only; hashes of rows stand for the rows."""
    return config_hash([asdict(unit.task), unit.data_digest, unit.seed, MethodRecord.of(method), seed, full])


def _guesses(unit: Unit) -> SplitOutputs:
    """Equal logits everywhere: every row is as likely as any other."""

    def guess(part: str) -> Outputs:
        labels = unit.splits.rows(part).labels().cpu().numpy()
        classes = unit.outputs["retrain"].test.scores.shape[1] - 1
        return Outputs.from_logits(np.zeros((len(labels), classes)), labels)

    return SplitOutputs(**{part: guess(part) for part in PARTS})
