"""Verify a certificate: bytes, hash, signer, files, model, chain, proof and intervals, each answered apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amu_fast.certificate import checks
from amu_fast.certificate.checks import Check, Outcome
from amu_fast.certificate.folder import compare
from amu_fast.certificate.issuing import certificate_path
from amu_fast.certificate.merkle import InclusionProof
from amu_fast.certificate.sealing import Sealed, unseal
from amu_fast.certificate.signing import Trust
from amu_fast.certificate.statements import CANNOT_ESTABLISH, ESTABLISHES
from amu_fast.certificate.verdicts import EXIT_CODES
from amu_fast.errors import DataError


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    Attributes:
        path: The certificate's file.
        outcome: The worst of the checks'.
        checks: In order.
        warnings: What does not spoil the outcome, such as files that the manifest does not list.
        sealed: What the certificate says; None where it is damaged or missing.
    """

    path: Path
    outcome: Outcome
    checks: tuple[Check, ...]
    warnings: tuple[str, ...] = ()
    sealed: Sealed | None = None

    @property
    def exit_code(self) -> int:
        """0 trusted, 2 damaged, 4 unknown key, 5 intact but unsigned, 6 a file is missing."""
        return self.outcome.value

    @property
    def verdict_exit_code(self) -> int:
        """The verdict's own code (0 meets its policy, 1 fails, 3 inconclusive) if the certificate is trusted."""
        if self.outcome is not Outcome.TRUSTED or self.sealed is None:
            return self.exit_code
        return EXIT_CODES[self.sealed.certificate.verdict.outcome]

    def check(self, name: str) -> Check:
        """The check of that name."""
        return {one.name: one for one in self.checks}[name]

    def to_plain(self) -> dict[str, Any]:
        """For machines."""
        sealed = self.sealed
        verdict = None if sealed is None else sealed.certificate.verdict
        return {
            "certificate": str(self.path),
            "outcome": self.outcome.name.lower(),
            "exit_code": self.exit_code,
            "file_sha256": None if sealed is None else sealed.file_hash,
            "sequence": None if sealed is None else sealed.certificate.sequence,
            "verdict": None if verdict is None else {"outcome": verdict.outcome, "reasons": list(verdict.reasons)},
            "checks": [{"name": c.name, "state": c.state, "detail": c.detail} for c in self.checks],
            "warnings": list(self.warnings),
            "establishes": list(ESTABLISHES),
            "cannot_establish": list(CANNOT_ESTABLISH),
        }


def verify(
    path: str | Path,
    *,
    trust: Trust | Iterable[str | Path] = (),
    allow_missing: bool = False,
    previous: Sequence[str | Path] = (),
    proof: InclusionProof | None = None,
    model: str | Path | None = None,
) -> Verification:
    """Verify a certificate and the folder that it lies in.

    Args:
        path: The certificate, or its folder.
        trust: Public keys of signers, or files of them; never taken from the certificate.
        allow_missing: Accept that listed files are not here (those that are here must be right).
        previous: The certificates before it, or their folders, in any order.
        proof: Shows that a record is among the subject records.
        model: Compare these weights, a safetensors file or a folder of them, instead of the folder's own.

    Raises:
        DataError: A file of `trust` cannot be used.
    """
    path = certificate_path(path)
    trust = trust if isinstance(trust, Trust) else Trust.load(trust)
    try:
        sealed = unseal(path.read_bytes())
    except FileNotFoundError:
        missing = Check("certificate", "not_checked", f"{path} is missing", Outcome.FILE_MISSING)
        return Verification(path, Outcome.FILE_MISSING, (missing,))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except DataError as error:
        return Verification(path, Outcome.DAMAGED, (Check("certificate", "failed", str(error), Outcome.DAMAGED),))
    certificate, folder = sealed.certificate, path.parent
    found = compare(folder, certificate.manifest)
    done = (
        Check("certificate", "passed", f"canonical, of one piece, SHA-256 {sealed.file_hash}"),
        checks.check_signature(sealed, trust),
        checks.check_files(found, allow_missing),
        checks.check_model(certificate, folder, found, None if model is None else Path(model)),
        checks.check_chain(sealed, [certificate_path(one) for one in previous]),
        checks.check_proof(certificate, proof),
        checks.check_intervals(certificate, folder, found),
    )
    faults = [one.outcome for one in done if one.outcome is not Outcome.TRUSTED]
    outcome = min(faults, key=lambda fault: fault.value, default=Outcome.TRUSTED)
    warnings = tuple(f"{name} is not listed in the certificate" for name in found.extra)
    return Verification(path, outcome, done, warnings, sealed)
