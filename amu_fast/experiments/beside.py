"""One model of a unit beside the unit's retrained model: the comparison of part 2 of an audit report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amu_fast.audit.attacks import CalibratedLoss, SplitOutputs
from amu_fast.audit.intervals import TOST_LEVEL, Interval, accuracy_difference
from amu_fast.audit.metrics import collapsed
from amu_fast.errors import DataError
from amu_fast.experiments.evaluate import HEADLINE
from amu_fast.report.comparison import Comparison, MethodRuns

if TYPE_CHECKING:
    from amu_fast.audit.margins import Margins
    from amu_fast.experiments.units import Unit

NAMES = {"unlearned": "unlearned", "retrain": "retrained", "original": "original", "floor": "another retrain"}
"""Role in a unit to its name in a report."""
ACCURACIES = ("retain", "forget", "test")
LABELS = {
    "retain_accuracy": "retain accuracy",
    "forget_accuracy": "forget accuracy",
    "test_accuracy": "test accuracy",
    "attack_auc": "attack AUC (calibrated loss)",
}


def comparison(unit: Unit, outputs: SplitOutputs, seconds: float | None, margins: Margins) -> Comparison:
    """A model, the original and the floor beside retrain: differences with intervals over this unit's rows.

    Args:
        unit: With all but the judged model.
        outputs: Of the judged model.
        seconds: That it took; None: not known.
        margins: Fixed before.
    """
    unlearned = method_row(unit, NAMES["unlearned"], outputs, seconds)
    original, floor = (
        method_row(unit, NAMES[role], unit.outputs[role], unit.seconds[role]) for role in ("original", "floor")
    )
    fixed = {**margins.to_plain(), "attack_auc": margins.auc}
    points = {metric: 100.0 * value for metric in HEADLINE if (value := fixed[metric]) is not None}
    title = "Signed differences to the retrained model"
    return Comparison((unlearned, original), floor, HEADLINE, title, LABELS, points)


def method_row(unit: Unit, name: str, outputs: SplitOutputs, seconds: float | None) -> MethodRuns:
    """One row of the comparison; a time that is not known is nan."""
    intervals, tost = (row_intervals(unit, outputs, level) for level in (0.95, TOST_LEVEL))
    accuracies = [float(correct(o, "test").mean()) for o in (outputs, unit.outputs["retrain"])]
    return MethodRuns(
        name=name,
        differences={metric: (intervals[metric].value,) for metric in HEADLINE},
        seconds=(float("nan") if seconds is None else seconds,),
        collapses=int(collapsed(*accuracies)),
        row_intervals=intervals,
        tost_intervals=tost,
    )


def row_intervals(unit: Unit, outputs: SplitOutputs, level: float) -> dict[str, Interval]:
    """Intervals over the unit's rows of the headline differences to retrain."""
    retrain = unit.outputs["retrain"]
    intervals = {
        f"{part}_accuracy": accuracy_difference(correct(outputs, part), correct(retrain, part), level)
        for part in ACCURACIES
    }
    attack = CalibratedLoss(unit.references)
    return {**intervals, "attack_auc": attack.run(outputs).difference_to(attack.run(retrain), level=level)}


def correct(outputs: SplitOutputs, part: str) -> Any:
    """Per row of a part, whether the answer is right, (n,)."""
    answers = outputs.require(part).correct
    if answers is None:
        raise DataError(f"the outputs on the {part} rows have no answers; use Outputs.from_logits")
    return answers
