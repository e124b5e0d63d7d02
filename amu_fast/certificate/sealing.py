"""A certificate to the bytes of its file, and back.

content_hash = H(canonical bytes of the body), where the body is everything but `content_hash` and `signature`; the
signature is over the content hash.
"""

from __future__ import annotations

from dataclasses import dataclass

from amu_fast.certificate.canonical import canonical_bytes, parse, sha256
from amu_fast.certificate.document import Certificate, Signature
from amu_fast.certificate.records import Unknown, decode, encode
from amu_fast.certificate.rules import contradictions
from amu_fast.certificate.signing import ALGORITHM, SigningKey
from amu_fast.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """What a certificate's file says.

    Attributes:
        certificate: The body.
        content_hash: SHA-256 of its canonical bytes.
        signature: None in an unsigned certificate.
        file_hash: SHA-256 of the file; the next certificate's `previous`.
    """

    certificate: Certificate
    content_hash: str
    signature: Signature | None
    file_hash: str


def seal(certificate: Certificate, key: SigningKey | None) -> bytes:
    """The bytes of a certificate's file.

    Raises:
        DataError: The certificate contradicts itself, names another signer than `key`, or holds what no body may.
    """
    signer = certificate.signer
    if (None if isinstance(signer, Unknown) else signer) != (None if key is None else key.key_id):
        raise DataError(f"the certificate names the signer {signer}, which is not the key given")
    body = certificate.body()
    content_hash = sha256(canonical_bytes(body))
    signature = None
    if key is not None:
        signed = Signature(algorithm=ALGORITHM, key_id=key.key_id, value=key.sign(content_hash))
        signature = encode(signed)[0]
    data = canonical_bytes({**body, "content_hash": content_hash, "signature": signature})
    unseal(data)
    return data


def unseal(data: bytes) -> Sealed:
    """Read a certificate's file; who signed it, and its files, are for `verify` to check.

    Raises:
        DataError: Bytes, fields or hashes are not what `seal` writes, or the certificate contradicts itself.
    """
    body = parse(data)
    missing = {"content_hash", "signature", "undefined"} - set(body)
    if missing:
        raise DataError(f"the certificate lacks {', '.join(sorted(missing))}")
    stated, signed = body.pop("content_hash"), body.pop("signature")
    content_hash = sha256(canonical_bytes(body))
    if stated != content_hash:
        raise DataError(f"the content's hash is {content_hash}, but the certificate states {stated!r}: it was changed")
    undefined = body.pop("undefined")
    certificate = decode(Certificate, body, undefined)
    signature = None if signed is None else decode(Signature, signed, {})
    named = None if isinstance(certificate.signer, Unknown) else certificate.signer
    if named != (None if signature is None else signature.key_id):
        raise DataError(f"the content names the signer {named}, but the signature is {signature}: it was exchanged")
    faults = contradictions(certificate)
    if faults:
        raise DataError(f"the certificate contradicts itself: {'; '.join(faults)}")
    return Sealed(certificate=certificate, content_hash=content_hash, signature=signature, file_hash=sha256(data))
