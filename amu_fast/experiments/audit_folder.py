"""An audited run of a unit as a folder that `amu-fast certify` takes: model, report, page, verdict, policy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from amu_fast.audit.judging import judge
from amu_fast.audit.margins import Margins
from amu_fast.certificate import Policy
from amu_fast.errors import DataError
from amu_fast.experiments.audit_report import default_attacks, make_audit
from amu_fast.experiments.beside import NAMES
from amu_fast.experiments.runs import MethodRun
from amu_fast.experiments.units import Unit
from amu_fast.report.document import AuditDocument
from amu_fast.report.html import REPORT_HTML, render
from amu_fast.report.report import MethodRecord
from amu_fast.report.writing import write_atomic
from amu_fast.unlearn.result import AUDIT_FILE, Result

VERDICT_FILE, POLICY_FILE = "verdict.json", "policy.json"


def house_policy(unit: Unit, method: MethodRecord, margins: Margins | None = None) -> Policy:
    """The claims that an audit of this method on this unit will rest on, sealed before the method is run.

    Which claims there are follows from attacks and margins alone; another retrained model stands for the unlearned one.

    Args:
        unit: With its controls.
        method: Decides which attacks were in the game.
        margins: None: the defaults of S8.
    """
    models = {role: unit.outputs[role] for role in ("retrain", "original", "floor")}
    attacks = default_attacks(unit, method)
    claims = judge({**models, "unlearned": unit.outputs["floor"]}, attacks, margins=margins).claims
    return Policy.create(
        f"default margins, {unit.task.data}", {claim.name: claim.margin for claim in claims if claim.required}
    )


def save_audit(folder: Path, unit: Unit, run: MethodRun, policy: Policy | None = None) -> AuditDocument:
    """Write model.safetensors, audit.json, report.html, verdict.json, policy.json and, last, report.json.

    Args:
        folder: Made if missing; files of these names are replaced.
        unit: That the run was on.
        run: With its result.
        policy: Sealed before the run, see `house_policy`.

    Raises:
        DataError: The run diverged, so that there is no model, or the system refused to write.
    """
    if run.result is None:
        raise DataError(f"{run.record.method.name} left no model ({run.record.diverged}); there is nothing to save")
    document, _ = make_audit(unit, run)
    verdict = document.verdict
    assert verdict is not None
    write_atomic(folder / AUDIT_FILE, document.to_json().encode())
    write_atomic(folder / REPORT_HTML, render(document).encode())
    write_atomic(folder / VERDICT_FILE, json.dumps(verdict.to_plain(), indent=1).encode())
    if policy is not None:
        policy.save(folder / POLICY_FILE)
    report = replace(
        run.result.report,
        metrics=document.values[NAMES["unlearned"]],
        attacks=tuple(row.record for row in document.attacks or ()),
        provenance=document.provenance or run.result.report.provenance,
    )
    Result(run.result.model, report).save(folder, figures=False)
    return document
