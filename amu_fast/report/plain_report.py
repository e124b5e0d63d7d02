"""The audit document of a run without a retrained model: what `unlearn()` measured, and why the rest is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amu_fast.audit.attacks import AttackResult
from amu_fast.report.binned import LossHistograms, RocRecord
from amu_fast.report.document import PARTS, AuditDocument, CostRecord, PanelRow, Subject
from amu_fast.report.report import Metric, Report

NO_RETRAIN = (
    "There is no retrained model to compare with. Train one without the forget rows and audit the two together; "
    "an attack's AUC alone is no evidence of forgetting (S6)."
)
_REASONS = {
    "verdict": NO_RETRAIN,
    "comparison": NO_RETRAIN,
    "losses": "Losses were not measured: no test rows were given, or this report was read back from a file.",
    "roc": "No scores were kept: no test rows were given, too few for a curve, or the report was read from a file.",
    "history": "The method took no steps that it recorded.",
    "examples": "Single rows were not compared: that needs the original's and the unlearned model's outputs.",
    "attacks": "No attack was run: no test rows were given.",
    "robustness": "Relearning and quantisation were not tried.",
}
_MODELS = {"before": "original", "after": "unlearned"}


def document_of(report: Report, losses: Mapping[str, Mapping[str, Any]] | None = None) -> AuditDocument:
    """A report as a document.

    Args:
        report: of a finished run.
        losses: "before" and "after" to part to losses (n,), as `Result.losses` has them; they are binned here.
    """
    named = {} if losses is None else {_MODELS.get(name, name): parts for name, parts in losses.items()}
    parts: dict[str, Any] = {
        "losses": LossHistograms.of(named) if named else None,
        "roc": _curves(named, any(a.in_game for a in report.attacks if a.name == "loss")),
        "history": report.history or None,
        "attacks": tuple(PanelRow(record) for record in report.attacks) or None,
        "cost": _cost(report),
        "provenance": report.provenance,
    }
    rows = {part: len(values) for part, values in next(iter(named.values()), {}).items()}
    return AuditDocument(
        title=f"Unlearning by {report.method.name}",
        subject=Subject(report.method, report.seed, "the caller's own", rows, "none"),
        values={"unlearned": report.metrics} if report.metrics else {},
        missing={name: _REASONS[name] for name in PARTS if not parts.get(name)},
        **parts,
    )


def _curves(losses: Mapping[str, Mapping[str, Any]], in_game: bool) -> tuple[RocRecord, ...] | None:
    """Of the loss, forget against test, unlearned first."""
    records = []
    for model in reversed(list(losses)):
        forget, test = losses[model].get("forget"), losses[model].get("test")
        if forget is not None and test is not None:
            result = AttackResult.of_scores("loss", -forget, -test, in_game=in_game)
            records.append(RocRecord.of(result, model))
    return tuple(record for record in records if record is not None) or None


def _cost(report: Report) -> CostRecord:
    retrain = Metric(None, reason="no retrained model")
    memory = Metric(None, reason="not measured")
    return CostRecord(report.cost, Metric(report.cost.seconds), retrain, retrain, memory)
