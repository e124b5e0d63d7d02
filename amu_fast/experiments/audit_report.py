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
from amu_fast.audit.intervals import TOST_LEVEL, accuracy_interval
from amu_fast.audit.judging import judge
from amu_fast.audit.margins import Margins
from amu_fast.errors import DataError
from amu_fast.experiments.beside import ACCURACIES, NAMES, comparison, correct
from amu_fast.experiments.example_rows import row_parts
from amu_fast.experiments.runs import MethodRun
from amu_fast.report.binned import LossHistograms, RocRecord
from amu_fast.report.document import AuditDocument, CostRecord, PanelRow, RobustnessRecord, Subject
from amu_fast.report.provenance import Provenance
from amu_fast.report.report import AttackRecord, MethodRecord, Metric
from amu_fast.report.verdict_record import VerdictRecord

if TYPE_CHECKING:
    from amu_fast.audit.verdict import Conditions
    from amu_fast.experiments.units import Unit
    from amu_fast.protocols import Attack
    from amu_fast.report.private import PrivateTable

_CURVES = ("unlearned", "retrain", "original")
_GAMES = ("Stackelberg", "ScoreMomentMatching")


@dataclass(frozen=True, eq=False)
class _Judged:
    """A model beside those it is judged by."""

    unit: Unit
    method: MethodRecord
    run: MethodRun | None
    models: Mapping[str, SplitOutputs]
    attacks: Sequence[Attack]  # those that could be run
    found: Mapping[str, Mapping[str, AttackResult]]  # attack to model to result
    refused: Mapping[str, str]  # attack to why it could not be run


@dataclass(frozen=True, eq=False)
class _Recorded:
    """An attack with its results, so that the verdict needs no second run."""

    name: str
    models: Mapping[str, SplitOutputs]
    results: Mapping[str, AttackResult]

    def run(self, target: SplitOutputs, splits: Any) -> AttackResult:
        """The result on the model with these outputs."""
        return self.results[next(role for role, outputs in self.models.items() if outputs is target)]


def make_audit(
    unit: Unit,
    judged: MethodRun | nn.Module,
    attacks: Sequence[Attack] | None = None,
    *,
    margins: Margins | None = None,
    conditions: Conditions | None = None,
    robustness: Sequence[RobustnessRecord] = (),
    peak_memory: float | None = None,
    key: bytes | None = None,
    title: str | None = None,
) -> tuple[AuditDocument, PrivateTable]:
    """Judge an unlearned model of a unit.

    Args:
        unit: With its original (positive control), retrain (reference), floor (negative control) and references.
        judged: A method's run on this unit, or a model.
        attacks: The verdict rests on the first three. None: calibrated loss, loss, a linear SVM and the paper's
            attack, each marked by whether its score was in the method's game.
        margins: None: the defaults of S8.
        conditions: What the verdict rests on beside the claims; None: nothing is amiss.
        robustness: What relearning and quantisation brought back, if tried.
        peak_memory: Bytes that the run took at most, if measured.
        key: For the keyed ids of the private table; None: a fresh one, under which ids tell rows apart within this
            table and nowhere else.
        title: None: the task and the method.

    Returns:
        The document that may be shared, and the table of single rows that may not.
    """
    margins = Margins() if margins is None else margins
    case = _attacked(unit, judged, attacks)
    recorded = [_Recorded(name, case.models, results) for name, results in case.found.items()]
    verdict = judge(case.models, recorded, margins=margins, conditions=conditions)
    thresholds = {name: value for name, value in margins.to_plain().items() if value is not None}
    title = f"{unit.task.data}: {len(unit.splits.rows('forget'))} rows, {case.method.name}" if title is None else title
    examples, private = row_parts(unit, case.models, secrets.token_bytes(32) if key is None else key, title)
    parts: dict[str, Any] = {
        "verdict": VerdictRecord.of(verdict, thresholds),
        "comparison": comparison(unit, case.models["unlearned"], _seconds(case), margins),
        "losses": _losses(case),
        "roc": _roc(case) or None,
        "history": None if case.run is None or case.run.result is None else case.run.result.report.history or None,
        "examples": examples,
        "attacks": tuple(_panel_row(case, attack) for attack in case.attacks) or None,
        "robustness": tuple(robustness) or None,
        "cost": _cost(case, peak_memory),
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


def _attacked(unit: Unit, judged: MethodRun | nn.Module, attacks: Sequence[Attack] | None) -> _Judged:
    if not unit.alike.all():
        unlike = int((~unit.alike).sum())
        raise DataError(f"{unlike} test rows are unlike the forget rows (S6); audit a unit with random forget rows")
    run = None if isinstance(judged, nn.Module) else judged
    outputs = unit.outputs_of(judged) if isinstance(judged, nn.Module) else judged.outputs
    method = MethodRecord("model as given", {}) if run is None else run.record.method
    models = {"unlearned": outputs, **{role: unit.outputs[role] for role in ("retrain", "original", "floor")}}
    found, refused = {}, {}
    attacks = default_attacks(unit, method) if attacks is None else attacks
    for attack in attacks:
        results = _results(attack, models)
        if isinstance(results, str):
            refused[attack.name] = results
        else:
            found[attack.name] = results
    kept = [attack for attack in attacks if attack.name in found]
    return _Judged(unit, method, run, models, kept, found, refused)


def _results(attack: Attack, models: Mapping[str, SplitOutputs]) -> dict[str, AttackResult] | str:
    """Of the attack on each model, or why it cannot be run on these rows: an audit is not lost for that."""
    try:
        return {role: attack.run(outputs, None) for role, outputs in models.items()}
    except DataError as error:
        return str(error)


def default_attacks(unit: Unit, method: MethodRecord) -> list[Attack]:
    """Calibrated loss, loss, a linear SVM and the paper's attack; marked where the method's game had their score."""
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


def _panel_row(case: _Judged, attack: Attack) -> PanelRow:
    results = case.found[attack.name]
    retrain = results["retrain"]
    return PanelRow(
        record=AttackRecord.of(results["unlearned"], retrain),
        how=(inspect.getdoc(type(attack)) or "").partition("\n")[0],
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
    values = {f"{part}_accuracy": Metric.of(accuracy_interval(correct(outputs, part))) for part in ACCURACIES}
    values["attack_auc"] = Metric.of(CalibratedLoss(case.unit.references).run(outputs).auc)
    return {**values, **{name: Metric(None, reason=why) for name, why in case.refused.items()}}


def _seconds(case: _Judged) -> float | None:
    return None if case.run is None else case.run.record.seconds


def _cost(case: _Judged, peak_memory: float | None) -> CostRecord:
    seconds, retrain = _seconds(case), case.unit.seconds["retrain"]
    unknown = Metric(None, reason="the model was given as it is")
    return CostRecord(
        run=None if case.run is None or case.run.result is None else case.run.result.report.cost,
        seconds=unknown if seconds is None else Metric(seconds),
        retrain_seconds=Metric(retrain, reason="of the same unit, on the machine that trained it"),
        speed_up=unknown if not seconds else Metric(retrain / seconds),
        peak_memory=Metric(peak_memory, reason="not measured" if peak_memory is None else None),
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
    return {
        "roc": "Too few non-members for a curve (S5), or no attack with a fixed score.",
        "history": history,
        "attacks": "No attack could be run; see the values of part 2 for why.",
        "robustness": "Relearning and quantisation were not tried.",
    }
