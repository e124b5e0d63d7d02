"""The full audit of one unlearned model of a prepared unit: judged against retrain, with both controls (S11)."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from amu_fast.audit.attacks import (
    AttackResult,
    CalibratedLoss,
    LinearSvmAttack,
    LossThreshold,
    PaperAttack,
    SplitOutputs,
)
from amu_fast.audit.intervals import TOST_LEVEL, Interval, accuracy_difference, accuracy_interval
from amu_fast.audit.metrics import collapsed
from amu_fast.errors import DataError
from amu_fast.experiments.evaluate import HEADLINE
from amu_fast.experiments.example_rows import row_parts
from amu_fast.experiments.runs import MethodRun
from amu_fast.report.binned import LossHistograms, RocRecord
from amu_fast.report.comparison import Comparison, MethodRuns
from amu_fast.report.document import (
    PARTS,
    AuditDocument,
    CostRecord,
    PanelRow,
    RobustnessRecord,
    Subject,
    VerdictRecord,
)
from amu_fast.report.provenance import Provenance
from amu_fast.report.report import AttackRecord, MethodRecord, Metric

if TYPE_CHECKING:
    from amu_fast.experiments.units import Unit
    from amu_fast.protocols import Attack
    from amu_fast.report.private import PrivateTable

MARGINS = {"retain_accuracy": 3.0, "forget_accuracy": 3.0, "test_accuracy": 1.0, "attack_auc": 5.0}
"""Equivalence margins in points, fixed before any audit (S8)."""
LABELS = {
    "retain_accuracy": "retain accuracy",
    "forget_accuracy": "forget accuracy",
    "test_accuracy": "test accuracy",
    "attack_auc": "attack AUC (calibrated loss)",
}
NAMES = {"unlearned": "unlearned", "retrain": "retrained", "original": "original", "floor": "another retrain"}
_ACCURACIES = ("retain", "forget", "test")
_CURVES = ("unlearned", "retrain", "original")
_GAMES = ("Stackelberg", "ScoreMomentMatching")


@dataclass(frozen=True, eq=False)
class _Judged:
    """A model beside those it is judged by."""

    unit: Unit
    method: MethodRecord
    run: MethodRun | None
    models: Mapping[str, SplitOutputs]
    found: Mapping[str, Mapping[str, AttackResult]]  # attack to model to result
    refused: Mapping[str, str]  # attack to why it could not be run
    how: Mapping[str, str]


def make_audit(
    unit: Unit,
    judged: MethodRun | nn.Module,
    attacks: Sequence[Attack] | None = None,
    *,
    verdict: VerdictRecord | None = None,
    robustness: Sequence[RobustnessRecord] = (),
    key: bytes | None = None,
    title: str | None = None,
) -> tuple[AuditDocument, PrivateTable]:
    """Judge an unlearned model of a unit.

    Args:
        unit: With its original (positive control), retrain (reference), floor (negative control) and references.
        judged: A method's run on this unit, or a model.
        attacks: None: calibrated loss, loss, the paper's attack and a linear SVM, each marked by whether its score
            was in the method's game.
        verdict: None: part 1 says that the model was not judged.
        robustness: What relearning and quantisation brought back, if tried.
        key: For the keyed ids of the private table; None: a fresh one, under which ids tell rows apart within this
            table and nowhere else.
        title: None: the task and the method.

    Returns:
        The document that may be shared, and the table of single rows that may not.
    """
    case = _judge(unit, judged, attacks)
    curves = _roc(case)
    title = f"{unit.task.data}: {len(unit.splits.rows('forget'))} rows, {case.method.name}" if title is None else title
    examples, private = row_parts(unit, case.models, secrets.token_bytes(32) if key is None else key, title)
    parts: dict[str, Any] = {
        "verdict": verdict,
        "comparison": comparison(unit, case.models["unlearned"], NAMES["unlearned"], _seconds(case)),
        "losses": _losses(case),
        "roc": curves or None,
        "history": None if case.run is None or case.run.result is None else case.run.result.report.history or None,
        "examples": examples,
        "attacks": tuple(_panel_row(case, name) for name in case.found) or None,
        "robustness": tuple(robustness) or None,
        "cost": _cost(case),
        "provenance": Provenance.collect(case.method.config, unit.splits),
    }
    document = AuditDocument(
        title=title,
        subject=_subject(case),
        values={NAMES[role]: _values(case, role) for role in NAMES},
        missing={name: why for name, why in _reasons(case).items() if parts[name] is None},
        **parts,
    )
    return document, private


def comparison(unit: Unit, outputs: SplitOutputs, name: str, seconds: float | None) -> Comparison:
    """A model, the original and the floor beside retrain: differences with intervals over this unit's rows."""
    rows = [("original", unit.outputs["original"], unit.seconds["original"]), (name, outputs, seconds)]
    floor = method_row(unit, NAMES["floor"], unit.outputs["floor"], unit.seconds["floor"])
    made = tuple(method_row(unit, *row) for row in reversed(rows))
    return Comparison(made, floor, HEADLINE, "Signed differences to the retrained model", LABELS, MARGINS)


def method_row(unit: Unit, name: str, outputs: SplitOutputs, seconds: float | None) -> MethodRuns:
    """One row of the comparison; a time that is not known is nan."""
    intervals, tost = (row_intervals(unit, outputs, level) for level in (0.95, TOST_LEVEL))
    accuracies = [float(_correct(o, "test").mean()) for o in (outputs, unit.outputs["retrain"])]
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
        f"{part}_accuracy": accuracy_difference(_correct(outputs, part), _correct(retrain, part), level)
        for part in _ACCURACIES
    }
    attack = CalibratedLoss(unit.references)
    return {**intervals, "attack_auc": attack.run(outputs).difference_to(attack.run(retrain), level=level)}


def _judge(unit: Unit, judged: MethodRun | nn.Module, attacks: Sequence[Attack] | None) -> _Judged:
    run = None if isinstance(judged, nn.Module) else judged
    outputs = unit.outputs_of(judged) if isinstance(judged, nn.Module) else judged.outputs
    method = MethodRecord("model as given", {}) if run is None else run.record.method
    models = {"unlearned": outputs, **{role: unit.outputs[role] for role in ("retrain", "original", "floor")}}
    found, refused, how = {}, {}, {}
    for attack in _default_attacks(unit, method) if attacks is None else attacks:
        how[attack.name] = (inspect.getdoc(type(attack)) or "").partition("\n")[0]
        try:
            found[attack.name] = {role: attack.run(out, unit.splits) for role, out in models.items()}
        except DataError as error:
            refused[attack.name] = str(error)
    return _Judged(unit, method, run, models, found, refused, how)


def _default_attacks(unit: Unit, method: MethodRecord) -> list[Attack]:
    loss, logits = scores_in_game(method)
    return [
        CalibratedLoss(unit.references),
        LossThreshold(in_game=loss),
        LinearSvmAttack(in_game=logits),
        PaperAttack(in_game=loss),
    ]


def scores_in_game(method: MethodRecord) -> tuple[bool, bool]:
    """Whether the loss, and whether the logits, were scores of the method's game, by its configuration."""
    if method.config.get("type") not in _GAMES:
        return False, False
    scores = method.config.get("auditor", method.config)["scores"]
    return True, str(scores).endswith(".logits_and_loss")


def _panel_row(case: _Judged, name: str) -> PanelRow:
    results = case.found[name]
    retrain = results["retrain"]
    return PanelRow(
        record=AttackRecord.of(results["unlearned"], retrain),
        how=case.how[name],
        retrained=retrain.auc,
        positive=results["original"].difference_to(retrain),
        negative=results["floor"].difference_to(retrain, level=TOST_LEVEL),
    )


def _roc(case: _Judged) -> tuple[RocRecord, ...]:
    """Of fixed scores only: a cross-fitted attack's scores have no common scale."""
    records = [
        RocRecord.of(results[role], NAMES[role], results["unlearned"].in_game)
        for results in case.found.values()
        for role in _CURVES
        if not results[role].cross_fitted
    ]
    return tuple(record for record in records if record is not None)


def _losses(case: _Judged) -> LossHistograms:
    parts = ("forget", "test", "retain")
    shown = ("original", "unlearned", "retrain")
    return LossHistograms.of({NAMES[m]: {p: case.models[m].require(p).require("loss") for p in parts} for m in shown})


def _values(case: _Judged, role: str) -> dict[str, Metric]:
    outputs = case.models[role]
    values = {f"{part}_accuracy": Metric.of(accuracy_interval(_correct(outputs, part))) for part in _ACCURACIES}
    values["attack_auc"] = Metric.of(CalibratedLoss(case.unit.references).run(outputs).auc)
    return {**values, **{name: Metric(None, reason=why) for name, why in case.refused.items()}}


def _seconds(case: _Judged) -> float | None:
    return None if case.run is None else case.run.record.seconds


def _cost(case: _Judged) -> CostRecord:
    seconds, retrain = _seconds(case), case.unit.seconds["retrain"]
    unknown = Metric(None, reason="the model was given as it is")
    return CostRecord(
        run=None if case.run is None or case.run.result is None else case.run.result.report.cost,
        seconds=unknown if seconds is None else Metric(seconds),
        retrain_seconds=Metric(retrain, reason="of the same unit, on the machine that trained it"),
        speed_up=unknown if not seconds else Metric(retrain / seconds),
        peak_memory=Metric(None, reason="not measured"),
    )


def _subject(case: _Judged) -> Subject:
    task, splits = case.unit.task, case.unit.splits
    rows = {part: len(splits.rows(part)) for part in ("retain", "forget", "validation", "test")}
    noise = f", {task.noise:.0%} of all labels replaced at random" if task.noise else ""
    return Subject(
        method=case.method,
        seed=None if case.run is None else case.run.record.seed,
        data=f"{task.data}{noise}, unit {case.unit.seed}",
        rows=rows,
        reference=f"1 model retrained without the forget rows; another as floor; {task.references} for calibration",
    )


def _reasons(case: _Judged) -> dict[str, str]:
    """Why a part may be missing from an audit of a unit."""
    diverged = "" if case.run is None else case.run.record.diverged
    history = f"The run diverged: {diverged}" if diverged else "The model was given as it is, or recorded no steps."
    reasons = dict.fromkeys(PARTS, "not measured")
    return {
        **reasons,
        "verdict": "This report measures, and draws no conclusion: no verdict was asked for.",
        "roc": "Too few non-members for a curve (S5), or no attack with a fixed score.",
        "history": history,
        "attacks": "No attack could be run; see the values of part 2 for why.",
        "robustness": "Relearning and quantisation were not tried.",
    }


def _correct(outputs: SplitOutputs, part: str) -> Any:
    correct = outputs.require(part).correct
    if correct is None:
        raise DataError(f"the outputs on the {part} rows have no answers; use Outputs.from_logits")
    return correct
