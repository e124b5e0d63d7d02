"""From the folder of a result to a certificate's content; what the folder does not tell is unknown, with the reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from amu_fast.certificate.document import (
    Audit,
    Content,
    DataHash,
    Estimate,
    Measured,
    Models,
    PolicyRecord,
    Procedure,
    Rate,
    Scores,
    Subjects,
)
from amu_fast.certificate.estimates import estimate_of, number
from amu_fast.certificate.facts import Facts
from amu_fast.certificate.ids import Sidecar
from amu_fast.certificate.models import SCORES_FILE, ModelHashes, hash_model, model_files
from amu_fast.certificate.policy import Policy, instant
from amu_fast.certificate.records import Unknown
from amu_fast.certificate.scores import stored_attacks
from amu_fast.certificate.verdicts import VerdictLike, no_verdict, record_verdict
from amu_fast.errors import DataError
from amu_fast.report.report import AttackRecord, Report

REPORT_FILE = "report.json"
MODEL_FILE = "model.safetensors"

_EXACT = "retrain"
_NO_REPORT = f"the folder holds no {REPORT_FILE}"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a certificate is made from.

    Attributes:
        folder: As `Result.save` writes it: model.safetensors (or shards), report.json, figures; scores.safetensors if
            the scores are to be kept for verifiers.
        sidecar: Keys and subject ids.
        original: The model before, a safetensors file or a folder of them.
        policy: Sealed before the audit.
        verdict: Of whatever judged by that policy; None: inconclusive.
        facts: The controller's statements.
    """

    folder: Path
    sidecar: Sidecar
    original: Path | None = None
    policy: Policy | None = None
    verdict: VerdictLike | None = None
    facts: Facts = field(default_factory=Facts)


def collect(sources: Sources) -> Content:
    """The content of a certificate.

    Raises:
        DataError: report.json or a model cannot be read, or the verdict is that there is no certificate.
    """
    folder, facts = sources.folder, sources.facts
    report = Report.load(folder / REPORT_FILE) if (folder / REPORT_FILE).is_file() else None
    attacks = () if report is None else report.attacks
    reference = facts.judged_against(any(attack.difference is not None for attack in attacks))
    policy = _policy(sources)
    verdict = sources.verdict
    stored = stored_attacks(folder / SCORES_FILE)
    return Content(
        request=facts.request(sources.sidecar),
        subjects=_subjects(sources.sidecar),
        data=Unknown(_NO_REPORT) if report is None else _data(report, sources.sidecar),
        models=_models(sources),
        procedure=Unknown(_NO_REPORT) if report is None else _procedure(report, facts),
        utility=Unknown(_NO_REPORT) if report is None else _utility(report),
        audits=Unknown(_NO_REPORT) if report is None else tuple(_audit(one, facts, stored) for one in attacks),
        reference=reference,
        robustness=Unknown("neither relearning nor quantisation was measured"),
        disposal=facts.copies(),
        residual_risk=facts.residual_risk
        or ("attacks stronger than those named here, or of another kind, may succeed",),
        limitations=(*_limitations(attacks, reference.kind), *facts.limitations),
        policy=policy,
        verdict=no_verdict(policy, reference) if verdict is None else record_verdict(verdict),
    )


def _policy(sources: Sources) -> PolicyRecord | Unknown:
    if sources.policy is None:
        return Unknown("no policy was given")
    audited, clock = sources.facts.audited_at, "stated by the controller"
    if isinstance(audited, Unknown):
        report = sources.folder / REPORT_FILE
        if not report.is_file():
            raise DataError("a policy needs the time of the audit, to show which was first; state `audited_at`")
        audited, clock = instant(report.stat().st_mtime), f"time of the file {REPORT_FILE}"
    policy = sources.policy
    return PolicyRecord(policy=policy, policy_hash=policy.policy_hash, audited_at=audited, clock=clock)


def _subjects(sidecar: Sidecar) -> Subjects | Unknown:
    if not sidecar.ids:
        return Unknown("no subject ids were given")
    return Subjects(count=len(sidecar.ids), merkle_root=sidecar.root())


def _data(report: Report, sidecar: Sidecar) -> tuple[DataHash, ...] | Unknown:
    hashes = report.provenance.data_hashes
    if hashes is None:
        return Unknown("the report holds no hashes of the data")
    keyed = {part: part == "forget" for part in hashes}
    return tuple(
        DataHash(part=part, sha256=sidecar.keyed(value) if keyed[part] else value, keyed=keyed[part])
        for part, value in hashes.items()
    )


def _models(sources: Sources) -> Models:
    before: ModelHashes | Unknown = Unknown("the model before was not given")
    if sources.original is not None:
        before = hash_model(sources.original)
    if model_files(sources.folder):
        single = sources.folder / MODEL_FILE
        return Models(before=before, after=hash_model(single if single.is_file() else sources.folder))
    return Models(before=before, after=Unknown(f"the folder holds no {MODEL_FILE}"))


def _procedure(report: Report, facts: Facts) -> Procedure:
    origin, cost = report.provenance, report.cost
    return Procedure(
        kind="exact" if report.method.name == _EXACT else "approximate",
        method=report.method.name,
        paper=facts.paper,
        config_sha256=origin.config_hash,
        seed=str(report.seed),
        code_version=origin.versions.get("amu_fast", "not recorded"),
        commit=Unknown("the library's code lay outside a repository") if origin.commit is None else origin.commit,
        dependencies=dict(origin.versions),
        hardware=origin.platform,
        threads=origin.threads,
        backends=tuple(f"{b.operator} on {b.device}: {b.implementation}" for b in origin.backends),
        steps=cost.steps,
        seconds=number(cost.seconds),
        gradient_samples=number(cost.gradient_samples),
        stopped_early=cost.stopped,
        started=facts.started,
        finished=facts.finished,
    )


def _utility(report: Report) -> tuple[Measured, ...]:
    found = []
    for name, metric in report.metrics.items():
        estimate: Estimate | Unknown = Unknown("not measured" if metric is None else metric.reason or "no interval")
        if metric is not None and metric.interval is not None:
            estimate = estimate_of(metric.interval)
        elif metric is not None and metric.value is not None:
            estimate = Unknown(f"{metric.value:.6g} without an interval: {metric.reason or 'none was computed'}")
        found.append(Measured(name=name, estimate=estimate))
    return tuple(found)


def _audit(record: AttackRecord, facts: Facts, stored: frozenset[str]) -> Audit:
    difference = record.difference
    return Audit(
        attack=record.name,
        threat_model=facts.threat_model,
        in_game=record.in_game,
        members=record.members,
        nonmembers=record.nonmembers,
        auc=estimate_of(record.auc),
        tpr_at_fpr=tuple(Rate(fpr=fpr, tpr=estimate_of(one)) for fpr, one in record.tpr.items()),
        auc_minus_reference=Unknown("no reference model was judged") if difference is None else estimate_of(difference),
        controls=facts.controls,
        scores=Scores(file=SCORES_FILE) if record.name in stored else Unknown("the scores were not stored"),
    )


def _limitations(attacks: tuple[AttackRecord, ...], reference: str) -> tuple[str, ...]:
    """Those that the report itself shows."""
    found = []
    if not attacks:
        found.append("no attack was run")
    elif all(attack.in_game for attack in attacks):
        found.append("every attack was used in the game against which the model was made: none is independent")
    if reference == "none":
        found.append("no reference model: an AUC near .5 is no evidence by itself (S6)")
    if any(attack.auc.scope == "this model" for attack in attacks):
        found.append("intervals speak of this model only, not of the method (S1)")
    return tuple(found)
