"""The single checks of a verification, each with what it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from amu_fast.certificate.document import Certificate
from amu_fast.certificate.folder import Comparison
from amu_fast.certificate.merkle import InclusionProof
from amu_fast.certificate.models import hash_model
from amu_fast.certificate.records import Unknown
from amu_fast.certificate.scores import disagreement, recomputable
from amu_fast.certificate.sealing import Sealed, unseal
from amu_fast.certificate.signing import Trust
from amu_fast.errors import DataError

State = Literal["passed", "failed", "not_checked"]


class Outcome(Enum):
    """What a verification found; its value is the exit code, and among several the smallest that is not 0 wins."""

    TRUSTED = 0
    DAMAGED = 2
    UNKNOWN_KEY = 4
    UNSIGNED = 5
    FILE_MISSING = 6


@dataclass(frozen=True)
class Check:
    """One question about a certificate.

    Attributes:
        name: Of the question.
        state: passed, failed, or not_checked, which is no pass.
        detail: What was found, or why it was not looked at.
        outcome: What it makes of the whole.
    """

    name: str
    state: State
    detail: str
    outcome: Outcome = Outcome.TRUSTED


def check_signature(sealed: Sealed, trust: Trust) -> Check:
    """Whether a trusted key made the signature."""
    signature = sealed.signature
    if signature is None:
        detail = "unsigned: the hash finds accidents, not forgers"
        return Check("signature", "failed", detail, Outcome.UNSIGNED)
    if not trust.knows(signature.key_id):
        count = len(trust.keys)
        detail = (
            f"signed by key {signature.key_id}, which is not among the {count} trusted; the signature was not checked"
        )
        return Check("signature", "not_checked", detail, Outcome.UNKNOWN_KEY)
    if not trust.accepts(signature.key_id, sealed.content_hash, signature.value):
        return Check("signature", "failed", f"not made by key {signature.key_id}, which it names", Outcome.DAMAGED)
    return Check("signature", "passed", f"made by the trusted key {signature.key_id}")


def check_files(found: Comparison, allow_missing: bool) -> Check:
    """Whether the folder's files are those of the manifest."""
    if found.changed:
        return Check("files", "failed", f"changed: {', '.join(found.changed)}", Outcome.DAMAGED)
    if found.missing:
        detail = f"missing: {', '.join(found.missing)}; the other {len(found.same)} are as listed"
        return Check("files", "not_checked", detail, Outcome.TRUSTED if allow_missing else Outcome.FILE_MISSING)
    return Check("files", "passed", f"all {len(found.same)} are as listed")


def check_model(certificate: Certificate, folder: Path, found: Comparison, other: Path | None) -> Check:
    """Whether the tensors of the folder's model, or of `other`, have the certified digest."""
    after = certificate.models.after
    if isinstance(after, Unknown):
        return Check("model", "not_checked", after.reason)
    names = [file.name for file in after.files]
    if other is None and (not names or not set(names) <= set(found.same)):
        return Check("model", "not_checked", "its files are not all here, unchanged")
    path = folder / names[0] if len(names) == 1 else folder
    try:
        digest = hash_model(path if other is None else other).tensor_digest
    except DataError as error:
        return Check("model", "failed", str(error), Outcome.DAMAGED)
    if digest != after.tensor_digest:
        detail = f"the tensors' digest is {digest}, certified is {after.tensor_digest}"
        return Check("model", "failed", detail, Outcome.DAMAGED)
    return Check("model", "passed", f"{after.tensors} tensors with digest {digest}")


def check_chain(sealed: Sealed, previous: Sequence[Path]) -> Check:
    """Whether the certificates given are those before this one, without a gap."""
    number = sealed.certificate.sequence
    if not previous:
        if number == 0:
            return Check("chain", "passed", "the first of its chain")
        return Check("chain", "not_checked", f"number {number} of its chain; give those before it with --previous")
    try:
        before = sorted((unseal(_read(path)) for path in previous), key=lambda one: -one.certificate.sequence)
    except FileNotFoundError as error:
        return Check("chain", "not_checked", f"{error.filename} is missing", Outcome.FILE_MISSING)
    except DataError as error:
        return Check("chain", "failed", f"a previous certificate is damaged: {error}", Outcome.DAMAGED)
    later = sealed
    for one in before:
        place = one.certificate.sequence
        if later.certificate.previous != one.file_hash or place != later.certificate.sequence - 1:
            detail = f"number {later.certificate.sequence} does not follow number {place}: one is missing or exchanged"
            return Check("chain", "failed", detail, Outcome.DAMAGED)
        later = one
    return Check("chain", "passed", f"number {number}, followed back to number {later.certificate.sequence}")


def check_proof(certificate: Certificate, proof: InclusionProof | None) -> Check:
    """Whether a record is among the subject records."""
    if proof is None:
        return Check("inclusion", "not_checked", "no proof was given")
    subjects = certificate.subjects
    if isinstance(subjects, Unknown):
        return Check("inclusion", "failed", f"no subject records were certified: {subjects.reason}", Outcome.DAMAGED)
    if not proof.holds(subjects.merkle_root, subjects.count):
        detail = "the proof does not lead to the certified root: another certificate's, or a changed record"
        return Check("inclusion", "failed", detail, Outcome.DAMAGED)
    return Check("inclusion", "passed", f"the record is one of {subjects.count}")


def check_intervals(certificate: Certificate, folder: Path, found: Comparison) -> Check:
    """Whether stored scores give the certified AUC and interval of every attack that has some."""
    audits = certificate.audits
    if isinstance(audits, Unknown):
        return Check("intervals", "not_checked", audits.reason)
    done, skipped = [], []
    for audit in audits:
        scores = audit.scores
        if isinstance(scores, Unknown) or scores.file not in found.same or not recomputable(audit.auc):
            skipped.append(audit.attack)
            continue
        try:
            fault = disagreement(audit, folder / scores.file)
        except DataError as error:
            fault = str(error)
        if fault:
            return Check("intervals", "failed", fault, Outcome.DAMAGED)
        done.append(audit.attack)
    rest = f"; without scores, or of a kind that scores alone do not give: {', '.join(skipped)}" if skipped else ""
    if not done:
        return Check("intervals", "not_checked", f"no attack's interval could be computed again{rest}")
    return Check("intervals", "passed", f"computed again from the scores: {', '.join(done)}{rest}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
