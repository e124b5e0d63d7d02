"""Ed25519 keys in PEM files, signatures, and the public keys that a verifier trusts.

Signed are `DOMAIN` and the 32 bytes of the content hash: a signature of this kind is good for nothing else. A key's id
is the SHA-256 of its 32 public bytes.

Source: RFC 8032; cryptography's OpenSSL does the arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from amu_fast.certificate.canonical import sha256
from amu_fast.certificate.ids import read_secret, write_secret
from amu_fast.errors import BackendError, DataError
from amu_fast.report.writing import write_atomic

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

DOMAIN = b"amu-erasure/1\0"
ALGORITHM: Literal["Ed25519"] = "Ed25519"
_BLOCK = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


@dataclass(frozen=True)
class SigningKey:
    """A private key in memory; printing it shows its id only."""

    key_id: str
    _private: Ed25519PrivateKey = field(repr=False)

    def sign(self, content_hash: str) -> str:
        """Signature over `DOMAIN` and the content hash, in hexadecimal digits."""
        return self._private.sign(DOMAIN + bytes.fromhex(content_hash)).hex()


@dataclass(frozen=True)
class Trust:
    """Public keys by id. Trust comes from the verifier's own files, never from a certificate."""

    keys: Mapping[str, Ed25519PublicKey]

    @staticmethod
    def load(paths: Iterable[str | Path]) -> Trust:
        """From PEM files with one or more public keys each.

        Raises:
            DataError: A file cannot be read, holds no public key, a private one, or one that is not Ed25519.
        """
        keys = [key for path in paths for key in _public_keys(Path(path))]
        return Trust({_key_id(key): key for key in keys})

    def knows(self, key_id: str) -> bool:
        """Whether the key is among them."""
        return key_id in self.keys

    def accepts(self, key_id: str, content_hash: str, signature: str) -> bool:
        """Whether the signature was made by that key."""
        _, error_type = _library()
        try:
            self.keys[key_id].verify(bytes.fromhex(signature), DOMAIN + bytes.fromhex(content_hash))
        except error_type:
            return False
        return True


def generate_key(path: str | Path) -> tuple[SigningKey, Path]:
    """Make a key: the private one as PEM at `path` (mode 600), the public one beside it as `.pub`.

    Returns:
        The key, and the path of its public half, which verifiers need.

    Raises:
        DataError: One of the files exists; no key is ever overwritten.
    """
    (ed25519, serialization), _ = _library()
    path = Path(path)
    public_path = path.with_name(f"{path.name}.pub")
    if public_path.exists():
        raise DataError(f"{public_path} exists; a key is never overwritten, so choose another name")
    private = ed25519.Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_secret(path, pem)
    public = private.public_key()
    encoded = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_atomic(public_path, encoded)
    return SigningKey(_key_id(public), private), public_path


def load_key(path: str | Path) -> SigningKey:
    """Read a private key that `generate_key` or `openssl genpkey -algorithm ed25519` made.

    Raises:
        DataError: It cannot be read, others can read it, or it is no Ed25519 private key without a password.
    """
    (ed25519, serialization), _ = _library()
    pem = read_secret(path)
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path} is no private key in PEM form without a password; amu-fast keygen makes one"
        ) from error
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise DataError(f"{path} is not an Ed25519 key; amu-fast keygen makes one")
    return SigningKey(_key_id(private.public_key()), private)


def _public_keys(path: Path) -> list[Ed25519PublicKey]:
    (ed25519, serialization), _ = _library()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if b"PRIVATE KEY" in data:
        raise DataError(f"{path} holds a private key; trust needs the public one only, the file ending in .pub")
    blocks = _BLOCK.findall(data)
    if not blocks:
        raise DataError(f"{path} holds no public key in PEM form; give the .pub file of the signer")
    try:
        keys: list[Any] = [serialization.load_pem_public_key(block) for block in blocks]
    except ValueError as error:
        raise DataError(f"{path} holds a damaged public key: {error}") from error
    if not all(isinstance(key, ed25519.Ed25519PublicKey) for key in keys):
        raise DataError(f"{path} holds a key that is not Ed25519; give the .pub file of the signer")
    return keys


def _key_id(public: Ed25519PublicKey) -> str:
    return sha256(public.public_bytes_raw())


def _library() -> tuple[tuple[Any, Any], type[Exception]]:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise BackendError("signatures need cryptography; pip install 'amu-fast[certificate]'") from error
    return (ed25519, serialization), InvalidSignature
