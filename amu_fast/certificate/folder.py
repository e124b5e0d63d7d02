"""The files of a result's folder: listed when a certificate is issued, compared when it is verified."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from amu_fast.certificate.document import CERTIFICATE_FILE, ManifestEntry
from amu_fast.certificate.models import file_sha256
from amu_fast.certificate.rules import path_fault
from amu_fast.errors import DataError


@dataclass(frozen=True)
class Comparison:
    """A folder beside its manifest: paths by what was found.

    Attributes:
        same: Size and hash as listed.
        changed: Listed, but of another size or hash, or no plain file.
        missing: Listed, but not there.
        extra: There, but not listed.
    """

    same: tuple[str, ...]
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]


def list_files(folder: Path) -> tuple[ManifestEntry, ...]:
    """All files of the folder but the certificate, by path.

    Raises:
        DataError: A link or another thing that is no plain file, a name that a manifest cannot hold.
    """
    entries = []
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        fault = path_fault(name)
        if fault or path.is_symlink() or not path.is_file():
            raise DataError(
                f"{path} cannot be certified: {fault or 'it is no plain file'}; rename, replace or remove it"
            )
        entries.append(ManifestEntry(path=name, size=path.stat().st_size, sha256=file_sha256(path)))
    return tuple(sorted(entries, key=lambda entry: entry.path))


def compare(folder: Path, manifest: tuple[ManifestEntry, ...]) -> Comparison:
    """The folder beside a manifest without contradictions."""
    same, changed, missing = [], [], []
    for entry in manifest:
        path = folder / entry.path
        if not path.is_symlink() and not path.exists():
            missing.append(entry.path)
        elif _is(path, entry):
            same.append(entry.path)
        else:
            changed.append(entry.path)
    listed = {entry.path for entry in manifest}
    extra = sorted(name for path in _walk(folder) if (name := path.relative_to(folder).as_posix()) not in listed)
    return Comparison(tuple(same), tuple(changed), tuple(missing), tuple(extra))


def _is(path: Path, entry: ManifestEntry) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.size:
        return False
    return file_sha256(path) == entry.sha256


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        plain_folder = path.is_dir() and not path.is_symlink()
        if not plain_folder and path != folder / CERTIFICATE_FILE:
            yield path
