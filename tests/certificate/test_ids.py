"""Keyed ids and the files that hold secrets."""

from __future__ import annotations

import hashlib
import hmac
import stat

import pytest

from amu_fast.certificate.ids import Sidecar, read_secret, write_secret
from amu_fast.errors import DataError


def test_an_id_is_an_hmac_under_the_certificates_own_key():
    one, other = Sidecar.new(), Sidecar.new()
    expected = hmac.new(bytes.fromhex(one.id_key), b"+49 30 1234567", hashlib.sha256).hexdigest()
    assert one.keyed("+49 30 1234567") == expected
    assert other.keyed("+49 30 1234567") != expected


def test_ids_that_look_alike_are_one():
    """e and its accent as one character or two: the same person."""
    sidecar = Sidecar.new(("Andre\u0301",))
    assert sidecar.ids == ("Andr\u00e9",)
    assert sidecar.keyed("Andre\u0301") == sidecar.keyed("Andr\u00e9")
    assert sidecar.prove("Andre\u0301").holds(sidecar.root(), 1)
    with pytest.raises(DataError, match="id 1 occurs twice"):
        Sidecar.new(("Andre\u0301", "Andr\u00e9"))


def test_an_empty_id_is_refused():
    with pytest.raises(DataError, match="id 1 is empty"):
        Sidecar.new(("a", ""))


def test_a_sidecar_comes_back_and_only_its_owner_reads_it(tmp_path):
    sidecar = Sidecar.new(("a", "b"))
    path = sidecar.save(tmp_path / "private.json")
    assert Sidecar.load(path) == sidecar
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(DataError, match="never overwritten"):
        sidecar.save(path)
    path.chmod(0o640)
    with pytest.raises(DataError, match="mode 640"):
        Sidecar.load(path)


def test_printing_a_sidecar_gives_no_key_away():
    sidecar = Sidecar.new(("ada",))
    assert repr(sidecar) == "Sidecar(1 ids)"


def test_secrets_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        read_secret(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        write_secret(tmp_path / "file" / "below", b"")
    with pytest.raises(DataError, match="not an amu-erasure-private/1"):
        Sidecar.load(write_secret(tmp_path / "other", b'{"schema":"x"}'))
