"""`amu-fast verify CERTIFICATE`: who signed it, whether anything was changed, and what that shows and what not.

Exit codes: 0 trusted, 2 damaged (or unusable input), 4 unknown key, 5 intact but unsigned, 6 a file is missing. With
--verdict a trusted certificate gives the verdict's own: 0 meets its policy, 1 fails, 3 inconclusive.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from amu_fast.certificate import InclusionProof, Verification, verify
from amu_fast.errors import DataError

_SIGNS = {"passed": "ok", "failed": "FAIL", "not_checked": "--"}


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Options of the command, under the names that they have there."""

    certificate: Path
    trust: tuple[Path, ...] = ()
    previous: tuple[Path, ...] = ()
    proof: Path | None = None
    model: Path | None = None
    allow_missing: bool = False
    verdict: bool = False
    as_json: bool = False


def run_verify(options: VerifyOptions) -> int:
    """Print what was found and return the exit code.

    Raises:
        DataError: A file of keys or a proof cannot be used.
    """
    found = verify(
        options.certificate,
        trust=options.trust,
        allow_missing=options.allow_missing,
        previous=options.previous,
        proof=None if options.proof is None else _read_proof(options.proof),
        model=options.model,
    )
    code = found.verdict_exit_code if options.verdict else found.exit_code
    if options.as_json:
        print(json.dumps({**found.to_plain(), "exit_code": code}, indent=1))
    else:
        print(_text(found))
    return code


def _read_proof(path: Path) -> InclusionProof:
    try:
        return InclusionProof.from_bytes(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _text(found: Verification) -> str:
    plain = found.to_plain()
    lines = [f"{plain['outcome'].upper().replace('_', ' ')}: {found.path}"]
    lines += [f"  {_SIGNS[check.state]:<4}  {check.name:<12} {check.detail}" for check in found.checks]
    lines += [f"  warning: {warning}" for warning in found.warnings]
    if found.sealed is None:
        return "\n".join(lines)
    verdict = found.sealed.certificate.verdict
    lines.append(f"verdict as certified: {verdict.outcome} ({', '.join(verdict.reasons)})")
    lines.append("What passed above establishes no more than:")
    lines += [f"  - {one}" for one in plain["establishes"]]
    lines.append("It cannot establish:")
    lines += [f"  - {one}" for one in plain["cannot_establish"]]
    return "\n".join(lines)
