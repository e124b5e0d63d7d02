"""The tree of RFC 6962, against its recursive definition, and proofs that must not pass."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import pytest

from amu_fast.certificate.ids import Sidecar
from amu_fast.certificate.merkle import InclusionProof, inclusion_path, leaf_hash, node_hash, path_holds, root_hash
from amu_fast.errors import DataError

SIZES = (1, 2, 3, 5, 7)


def leaves(size: int) -> list[bytes]:
    return [hashlib.sha256(bytes([i])).digest() for i in range(size)]


def split(size: int) -> int:
    """Largest power of two strictly below `size`."""
    k = 1
    while 2 * k < size:
        k *= 2
    return k


def naive_root(hashes: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word by word."""
    if len(hashes) == 1:
        return hashes[0]
    k = split(len(hashes))
    return hashlib.sha256(b"\x01" + naive_root(hashes[:k]) + naive_root(hashes[k:])).digest()


def naive_path(hashes: list[bytes], index: int) -> list[bytes]:
    """RFC 6962 section 2.1.1, word by word."""
    if len(hashes) == 1:
        return []
    k = split(len(hashes))
    if index < k:
        return [*naive_path(hashes[:k], index), naive_root(hashes[k:])]
    return [*naive_path(hashes[k:], index - k), naive_root(hashes[:k])]


@pytest.mark.parametrize("size", [*SIZES, *range(8, 20)])
def test_root_and_paths_are_those_of_the_standard(size):
    tree = leaves(size)
    assert root_hash(tree) == naive_root(tree)
    for index in range(size):
        path = inclusion_path(tree, index)
        assert list(path) == naive_path(tree, index)
        assert path_holds(tree[index], index, size, path, root_hash(tree))


def test_root_of_the_standards_test_vectors():
    """Certificate Transparency's published vectors: leaves H(00 ‖ data) of "", "00", "10"."""
    tree = [hashlib.sha256(b"\x00" + bytes.fromhex(text)).digest() for text in ("", "00", "10")]
    assert root_hash(tree[:1]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert root_hash(tree[:2]).hex() == "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
    assert root_hash(tree).hex() == "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"


@pytest.mark.parametrize("size", SIZES)
def test_no_other_leaf_place_size_or_path_passes(size):
    tree = leaves(size)
    root = root_hash(tree)
    for index in range(size):
        path = list(inclusion_path(tree, index))
        wrong = [(tree[index], other, size, path) for other in range(-1, size + 1) if other != index]
        wrong += [(tree[other], index, size, path) for other in range(size) if other != index]
        wrong += [(tree[index], index, size, [*path, tree[0]])]
        wrong += [(tree[index], index, size, path[:-1])] if path else []
        wrong += [(tree[index], index, size, [tree[0][::-1], *path[1:]])] if path else []
        assert not any(path_holds(*attempt, root) for attempt in wrong)


def test_a_repeated_last_leaf_changes_the_root():
    """[a, b, c] and [a, b, c, c] have one root where odd levels are filled up with copies; here they differ."""
    a, b, c = leaves(3)
    filled = node_hash(node_hash(a, b), node_hash(c, c))
    assert root_hash([a, b, c]) != root_hash([a, b, c, c]) == filled


def test_an_inner_node_is_no_leaf():
    """Neither as a hash at its own height nor as a record whose text is its two children."""
    sidecar = Sidecar.new(("a", "b", "c", "d"))
    salted = sorted(leaf_hash(sidecar._salt(one), one.encode()) for one in sidecar.ids)
    left, right = node_hash(*salted[:2]), node_hash(*salted[2:])
    root = sidecar.root()
    assert node_hash(left, right).hex() == root
    # The path is sound for a tree of two, which is why the number of leaves comes from the certificate.
    assert path_holds(left, 0, 2, [right], bytes.fromhex(root))
    assert not path_holds(left, 0, 4, [right], bytes.fromhex(root))
    plain = InclusionProof(record="x", salt=salted[0].hex(), index=0, size=2, path=(right.hex(),))
    assert not plain.holds(root, 4)
    assert not replace(plain, size=4).holds(root, 4)
    # H(00 ‖ salt ‖ record) of the children's bytes is not H(01 ‖ left ‖ right).
    assert leaf_hash(salted[0], salted[1]) != left


@pytest.mark.parametrize("size", SIZES)
def test_a_sidecar_proves_each_of_its_records_and_no_other(size):
    sidecar = Sidecar.new([f"person-{i}" for i in range(size)])
    for subject in sidecar.ids:
        proof = InclusionProof.from_bytes(sidecar.prove(subject).to_bytes())
        assert proof == sidecar.prove(subject)
        assert proof.holds(sidecar.root(), size)
        assert not replace(proof, record="mallory").holds(sidecar.root(), size)
        assert not proof.holds(sidecar.root(), size + 1)
        assert not proof.holds(Sidecar.new(sidecar.ids).root(), size)
    with pytest.raises(DataError, match="not among"):
        sidecar.prove("mallory")


def test_a_proof_reveals_one_salt_and_no_key():
    sidecar = Sidecar.new(("a", "b", "c"))
    text = sidecar.prove("a").to_bytes().decode()
    salts = {
        one: hmac.new(bytes.fromhex(sidecar.master_key), one.encode(), "sha256").hexdigest() for one in sidecar.ids
    }
    assert [one for one, salt in salts.items() if salt in text] == ["a"]
    assert sidecar.master_key not in text
    assert sidecar.id_key not in text


def test_order_of_the_ids_does_not_change_the_root():
    one = Sidecar.new(("a", "b", "c"))
    other = replace(one, ids=("c", "a", "b"))
    assert one.root() == other.root()


@pytest.mark.parametrize("data", [b"{}", b'{"schema":"amu-erasure-proof/1"}', b"nothing"])
def test_other_documents_are_no_proof(data):
    with pytest.raises(DataError):
        InclusionProof.from_bytes(data)
