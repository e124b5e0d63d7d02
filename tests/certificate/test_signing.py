"""Keys, signatures and trust."""

from __future__ import annotations

import stat
import subprocess
from shutil import which

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from amu_fast.certificate.canonical import sha256
from amu_fast.certificate.signing import Trust, generate_key, load_key
from amu_fast.errors import DataError

HASH = "ab" * 32


def pem(private) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_signature_is_ed25519_over_domain_and_hash(keys):
    """By the standard's own verification, on the public file alone."""
    public = serialization.load_pem_public_key(keys.public.read_bytes())
    signature = bytes.fromhex(keys.key.sign(HASH))
    public.verify(signature, b"amu-erasure/1\0" + bytes.fromhex(HASH))
    assert keys.key.key_id == sha256(public.public_bytes_raw())
    assert load_key(keys.private).sign(HASH) == signature.hex()


def test_a_key_of_the_standards_first_vector(tmp_path):
    """RFC 8032 section 7.1, test 1: the key's public half."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    path = tmp_path / "key.pem"
    path.write_bytes(pem(ed25519.Ed25519PrivateKey.from_private_bytes(seed)))
    path.chmod(0o600)
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert load_key(path).key_id == sha256(bytes.fromhex(public))


def test_trust_accepts_its_own_keys_only(keys, stranger):
    trust = Trust.load([keys.public])
    signature = keys.key.sign(HASH)
    assert trust.accepts(keys.key.key_id, HASH, signature)
    assert not trust.accepts(keys.key.key_id, "cd" * 32, signature)
    assert not trust.accepts(keys.key.key_id, HASH, stranger.key.sign(HASH))
    assert not trust.knows(stranger.key.key_id)


def test_a_trust_file_holds_several_keys(keys, stranger, tmp_path):
    both = tmp_path / "trusted.pem"
    both.write_bytes(b"# our signers\n" + keys.public.read_bytes() + stranger.public.read_bytes())
    assert set(Trust.load([both]).keys) == {keys.key.key_id, stranger.key.key_id}


def test_private_keys_are_private(keys, tmp_path):
    assert stat.S_IMODE(keys.private.stat().st_mode) == 0o600
    assert "BEGIN" not in repr(keys.key)
    copy = tmp_path / "key.pem"
    copy.write_bytes(keys.private.read_bytes())
    copy.chmod(0o644)
    with pytest.raises(DataError, match="chmod 600"):
        load_key(copy)


def test_keys_are_never_overwritten(keys, tmp_path):
    before = keys.private.read_bytes()
    with pytest.raises(DataError, match="never overwritten"):
        generate_key(keys.private)
    assert keys.private.read_bytes() == before
    (tmp_path / "new.pem").touch()
    with pytest.raises(DataError, match="never overwritten"):
        generate_key(tmp_path / "new.pem")
    assert not (tmp_path / "new.pem.pub").exists()


def test_files_that_are_no_keys(keys, tmp_path):
    elliptic = ec.generate_private_key(ec.SECP256R1())
    public = elliptic.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    broken = keys.public.read_bytes().replace(b"MC", b"XX")
    for data, message in ((public, "not Ed25519"), (b"text", "no public key"), (broken, "damaged")):
        (tmp_path / "trust.pem").write_bytes(data)
        with pytest.raises(DataError, match=message):
            Trust.load([tmp_path / "trust.pem"])
    with pytest.raises(DataError, match="holds a private key"):
        Trust.load([keys.private])
    with pytest.raises(DataError, match="cannot read"):
        Trust.load([tmp_path / "absent"])
    for data, message in ((pem(elliptic), "not an Ed25519"), (b"text", "no private key"), (public, "no private key")):
        path = tmp_path / "key.pem"
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(DataError, match=message):
            load_key(path)


@pytest.mark.skipif(which("openssl") is None, reason="openssl is not installed")
def test_openssl_makes_keys_that_sign(tmp_path):
    path = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True, capture_output=True)
    path.chmod(0o600)
    public = tmp_path / "key.pub"
    subprocess.run(["openssl", "pkey", "-in", path, "-pubout", "-out", public], check=True, capture_output=True)
    key = load_key(path)
    assert Trust.load([public]).accepts(key.key_id, HASH, key.sign(HASH))
