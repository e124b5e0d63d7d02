"""Keyed ids, salts, and the private sidecar that holds their keys.

A plain hash of a telephone number is found by trying all numbers. Every id in a certificate is therefore an
HMAC-SHA-256 under a key that only the controller holds, another one for each certificate; a record's salt is one too.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amu_fast.certificate.canonical import canonical_bytes, parse
from amu_fast.certificate.merkle import InclusionProof, inclusion_path, leaf_hash, root_hash
from amu_fast.certificate.records import Hash, decode, encode
from amu_fast.errors import DataError

_SIDECAR = "amu-erasure-private/1"
_PRIVATE = 0o600
_OTHERS = 0o077


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What the controller keeps to himself: the keys of one certificate and the ids of its subject records.

    Attributes:
        master_key: Key of the salts.
        id_key: Key of the ids and of the forget set's hash.
        ids: Subject ids in the order given, in Unicode's form NFC; each is its own record.
    """

    master_key: Hash
    id_key: Hash
    ids: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Without the keys: an object that is printed must not give them away."""
        return f"Sidecar({len(self.ids)} ids)"

    @staticmethod
    def new(ids: Sequence[str] = ()) -> Sidecar:
        """Fresh keys for the records of one certificate.

        Raises:
            DataError: An empty id, or one that occurs twice.
        """
        normal = [unicodedata.normalize("NFC", one) for one in ids]
        if "" in normal:
            raise DataError(f"subject id {normal.index('')} is empty; remove it")
        if len(set(normal)) != len(normal):
            twice = next(i for i, one in enumerate(normal) if one in normal[:i])
            raise DataError(f"subject id {twice} occurs twice; list each record once")
        return Sidecar(master_key=secrets.token_hex(32), id_key=secrets.token_hex(32), ids=tuple(normal))

    def keyed(self, text: str) -> str:
        """HMAC of an id, or of a hash in hexadecimal digits."""
        return _hmac(self.id_key, unicodedata.normalize("NFC", text)).hex()

    def root(self) -> str:
        """Merkle root of the records."""
        return root_hash([leaf for leaf, _ in self._leaves()]).hex()

    def prove(self, subject: str) -> InclusionProof:
        """The proof for one record; give it to its subject.

        Raises:
            DataError: No such record.
        """
        subject = unicodedata.normalize("NFC", subject)
        leaves = self._leaves()
        index = next((i for i, (_, one) in enumerate(leaves) if one == subject), None)
        if index is None:
            raise DataError(f"{subject!r} is not among the {len(self.ids)} subject ids of this certificate")
        path = inclusion_path([leaf for leaf, _ in leaves], index)
        return InclusionProof(
            record=subject,
            salt=self._salt(subject).hex(),
            index=index,
            size=len(leaves),
            path=tuple(one.hex() for one in path),
        )

    def save(self, path: str | Path) -> Path:
        """Write it for the owner alone (mode 600); never over another file."""
        body, _ = encode(self)
        return write_secret(path, canonical_bytes({"schema": _SIDECAR, **body}))

    @staticmethod
    def load(path: str | Path) -> Sidecar:
        """Read it; DataError if it is not one, or if others can read it."""
        body = parse(read_secret(path))
        if body.pop("schema", None) != _SIDECAR:
            raise DataError(f"{path} is not an {_SIDECAR} document")
        return decode(Sidecar, body, {})

    def _salt(self, subject: str) -> bytes:
        return _hmac(self.master_key, subject)

    def _leaves(self) -> list[tuple[bytes, str]]:
        return sorted((leaf_hash(self._salt(one), one.encode()), one) for one in self.ids)


def write_secret(path: str | Path, data: bytes) -> Path:
    """Write a new file that only its owner can read, from its first byte on.

    Raises:
        DataError: It exists already, or the system refused.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    except OSError as error:
        if path.exists():
            raise DataError(f"{path} exists; a key is never overwritten, so choose another name") from error
        raise DataError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error.strerror or error}; nothing was left of it") from error
    return path


def read_secret(path: str | Path) -> bytes:
    """Bytes of a file that nobody but its owner can read.

    Raises:
        DataError: It cannot be read, or others can read it.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if os.name == "posix" and mode & _OTHERS:
        raise DataError(f"{path} can be read by others (mode {mode & 0o777:o}); chmod 600 it, or make a new one")
    return data


def _hmac(key: str, text: str) -> bytes:
    return hmac.new(bytes.fromhex(key), text.encode(), hashlib.sha256).digest()
