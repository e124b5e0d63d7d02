"""The subject records of a request as one hash, and proofs that a record is among them.

leaf = H(00 ‖ salt ‖ record), node = H(01 ‖ left ‖ right), H = SHA-256; a tree of n > 1 leaves splits at the largest
power of two below n, so no leaf is ever repeated. Leaves are sorted by hash: their order tells nothing about the
records'.

Source: RFC 6962 section 2.1 (tree and paths), RFC 9162 section 2.1.3.2 (checking a path).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from amu_fast.certificate.canonical import canonical_bytes, parse
from amu_fast.certificate.records import Hash, decode, encode
from amu_fast.errors import DataError

SALT_BYTES = 32
_PROOF = "amu-erasure-proof/1"


@dataclass(frozen=True, kw_only=True)
class InclusionProof:
    """Shows that one record is among a certificate's subject records; reveals its record and salt, and no other.

    Attributes:
        record: Text of the record.
        salt: Its salt, 32 bytes in hexadecimal digits.
        index: Place of its leaf, from 0.
        size: Leaves of the tree.
        path: Hashes from the leaf's sibling up to the root's child.
    """

    record: str
    salt: Hash
    index: int
    size: int
    path: tuple[Hash, ...]

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        body, _ = encode(self)
        return canonical_bytes({"schema": _PROOF, **body})

    @staticmethod
    def from_bytes(data: bytes) -> InclusionProof:
        """What `to_bytes` wrote; DataError for anything else."""
        body = parse(data)
        if body.pop("schema", None) != _PROOF:
            raise DataError(f"not an {_PROOF} document")
        return decode(InclusionProof, body, {})

    def holds(self, root: str, size: int) -> bool:
        """Whether it proves its record to be one of the `size` leaves below `root`."""
        leaf = leaf_hash(bytes.fromhex(self.salt), self.record.encode())
        siblings = [bytes.fromhex(item) for item in self.path]
        return self.size == size and path_holds(leaf, self.index, size, siblings, bytes.fromhex(root))


def leaf_hash(salt: bytes, record: bytes) -> bytes:
    """H(00 ‖ salt ‖ record)."""
    if len(salt) != SALT_BYTES:
        raise DataError(f"a salt must have {SALT_BYTES} bytes, got {len(salt)}")
    return hashlib.sha256(b"\x00" + salt + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """H(01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_hash(leaves: Sequence[bytes]) -> bytes:
    """Root over leaf hashes in the order given; H() of nothing for no leaves."""
    if not leaves:
        return hashlib.sha256().digest()
    level = list(leaves)
    # Pairing from the left and carrying an odd last node up unchanged makes RFC 6962's tree.
    while len(level) > 1:
        odd = level[len(level) - len(level) % 2 :]
        level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)] + odd
    return level[0]


def inclusion_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Siblings from the leaf `index` up to the root."""
    if not 0 <= index < len(leaves):
        raise DataError(f"the leaf must be one of 0 to {len(leaves) - 1}, got {index}")
    path: list[bytes] = []
    level = list(leaves)
    while len(level) > 1:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        odd = level[len(level) - len(level) % 2 :]
        level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)] + odd
        index //= 2
    return tuple(path)


def path_holds(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `path` leads from the leaf hash at `index` of `size` leaves to `root`."""
    if not 0 <= index < size:
        return False
    node, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if node & 1 or node == last:
            found = node_hash(sibling, found)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and hmac.compare_digest(found, root)
