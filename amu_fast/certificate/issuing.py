"""Issue a certificate: the last file of a result's folder, which lists and binds all others."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from amu_fast.certificate.canonical import sha256
from amu_fast.certificate.document import CERTIFICATE_FILE, Certificate, Content
from amu_fast.certificate.folder import list_files
from amu_fast.certificate.policy import now
from amu_fast.certificate.records import Unknown
from amu_fast.certificate.rules import content_contradictions
from amu_fast.certificate.sealing import seal, unseal
from amu_fast.certificate.signing import SigningKey
from amu_fast.errors import DataError
from amu_fast.report.writing import write_atomic


@dataclass(frozen=True)
class Issued:
    """Where a certificate lies.

    Attributes:
        path: Its file.
        certificate: The body.
        file_hash: SHA-256 of its bytes: `previous` of the next one, and what to have timestamped by somebody else.
    """

    path: Path
    certificate: Certificate
    file_hash: str


def issue(
    folder: str | Path, content: Content, *, key: SigningKey | None, previous: str | Path | None = None
) -> Issued:
    """Write `certificate.json` into a folder that is otherwise complete.

    Args:
        folder: Holds model, reports, figures; every file in it is listed with size and SHA-256.
        content: What is certified.
        key: Signs it; None leaves it unsigned, which finds accidents and no forgers.
        previous: The last certificate of the chain; None begins one.

    Raises:
        DataError: There is one already, the previous one is damaged, or the content contradicts itself (a policy
            written after the audit, a verdict that its claims do not carry): then there is no certificate.
    """
    folder = Path(folder)
    path = folder / CERTIFICATE_FILE
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the one that Result.save wrote")
    if path.exists():
        raise DataError(f"{path} exists; a certificate is never overwritten, so certify a copy of the folder")
    faults = content_contradictions(content)
    if faults:
        raise DataError(f"no certificate: {'; '.join(faults)}")
    before, sequence = _link(previous)
    values: dict[str, Any] = {f.name: getattr(content, f.name) for f in fields(Content)}
    certificate = Certificate(
        **values,
        issued_at=now(),
        sequence=sequence,
        previous=before,
        signer=Unknown("issued without a key") if key is None else key.key_id,
        manifest=list_files(folder),
    )
    data = seal(certificate, key)
    write_atomic(path, data)
    return Issued(path, certificate, sha256(data))


def _link(previous: str | Path | None) -> tuple[str | Unknown, int]:
    if previous is None:
        return Unknown("the first of its chain"), 0
    path = certificate_path(previous)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the previous certificate {path}: {error.strerror or error}") from error
    try:
        sealed = unseal(data)
    except DataError as error:
        raise DataError(f"the previous certificate {path} is damaged: {error}") from error
    return sealed.file_hash, sealed.certificate.sequence + 1


def certificate_path(path: str | Path) -> Path:
    """The certificate's file, given itself or its folder."""
    path = Path(path)
    return path / CERTIFICATE_FILE if path.is_dir() else path
