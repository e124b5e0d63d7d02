"""Atomic writes: whatever interrupts them, the file is the old one or the new one and nothing else lies about."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from amu_fast.errors import DataError
from amu_fast.report.writing import write_atomic


def full_disk(_descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")


def ctrl_c(_descriptor):
    raise KeyboardInterrupt


def listing(folder):
    return sorted(p.name for p in folder.iterdir())


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "made" / "report.json"
    assert write_atomic(path, b"one") == path
    write_atomic(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert listing(path.parent) == ["report.json"]


def test_permissions_follow_the_umask(tmp_path):
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain.write_bytes(b"")
    write_atomic(ours, b"")
    assert ours.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("old", [None, b"old content"])
@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(("failure", "raised"), [(full_disk, DataError), (ctrl_c, KeyboardInterrupt)])
def test_interrupted_write_leaves_the_old_file_only(tmp_path, monkeypatch, old, step, failure, raised):
    path = tmp_path / "report.json"
    if old is not None:
        path.write_bytes(old)
    if step == "fsync":
        monkeypatch.setattr(os, "fsync", failure)
    else:
        monkeypatch.setattr(Path, "replace", lambda self, target: failure(target))
    with pytest.raises(raised):
        write_atomic(path, b"new" * 1000)
    assert listing(tmp_path) == ([] if old is None else ["report.json"])
    if old is not None:
        assert path.read_bytes() == old


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    class HalfWriter:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            full_disk(None)

    really_open = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a: HalfWriter(really_open(self, *a)))
    with pytest.raises(DataError, match=r"cannot write 3000 bytes to .*report\.json: No space left.*free space"):
        write_atomic(tmp_path / "report.json", b"new" * 1000)
    assert listing(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write 1 bytes to .*choose another place"):
        write_atomic(tmp_path / "file" / "report.json", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="folder"):
        write_atomic(tmp_path / "folder", b"x")
    assert listing(tmp_path) == ["file", "folder"]
