"""Whatever fails or dies in the middle of a save, the old state or the new one is there, whole."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from amu_fast.errors import DataError
from amu_fast.unlearn.checkpoint import CheckpointStore

#: Every way in which a save touches the file system.
CALLS = [
    (os, "mkdir"),
    (os, "open"),
    (os, "fsync"),
    (os, "close"),
    (os, "rename"),
    (os, "rmdir"),
    (os, "unlink"),
    (os, "scandir"),
    (os, "listdir"),
    (io, "open"),
    (safetensors.torch, "save_file"),
]


#: Those that leave something on the disk.
CHANGES = [call for call in CALLS if call[1] in ("mkdir", "rename", "rmdir", "unlink", "save_file") or call[0] is io]


class Faults:
    """Counts the calls and breaks one."""

    def __init__(self, monkeypatch, at=None, then=None, calls=CALLS):
        self.count, self.at, self.then, self.names = 0, at, then, []
        for module, name in calls:
            monkeypatch.setattr(module, name, self.counted(name, getattr(module, name)))

    def counted(self, name, function):
        def call(*arguments, **options):
            self.count += 1
            self.names.append(name)
            if self.count == self.at:
                self.then()
            return function(*arguments, **options)

        return call


def prepared(folder: Path) -> CheckpointStore:
    """Step 2, one older that the next save deletes, and a leftover that it clears away."""
    store = CheckpointStore(folder, keep=1)
    store.save(1, model={"w": torch.full((3,), 1.0)})
    shutil.copytree(store.latest(), folder / ".step-00000000.0123456789ab.staging")
    older = folder / "kept"
    store.latest().rename(older)
    store.save(2, model={"w": torch.full((3,), 2.0)}, optimizer={"a": torch.ones(1)})
    older.rename(folder / "step-00000001")
    shutil.copytree(store.latest(), folder / ".step-00000000.0123456789ab.staging")
    return store


def save(store):
    return store.save(3, model={"w": torch.full((3,), 3.0)}, optimizer={"a": torch.zeros(1)}, state={"x": 1})


def refused(store) -> str:
    """Why a save was refused; empty if it was not."""
    try:
        save(store)
    except DataError as error:
        return str(error)
    return ""


def old_or_new(store) -> int:
    """The latest step, which must load whole; and the next save must work and leave nothing else behind."""
    checkpoint = store.load()
    assert checkpoint.step in (2, 3)
    assert checkpoint.model["w"].tolist() == [float(checkpoint.step)] * 3
    store.save(4, model={"w": torch.full((3,), 4.0)})
    assert [path.name for path in store.folder.iterdir()] == ["step-00000004"]
    return checkpoint.step


@pytest.fixture(autouse=True)
def no_disk(monkeypatch):
    """Forcing files to the disk takes most of the time, and no test can see whether they are there."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def calls(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        store = prepared(tmp_path / "counted")
        faults = Faults(patch)
        save(store)
    return faults.names


def test_every_refusal_of_the_system_is_an_error_and_nothing_is_half(tmp_path, calls):
    assert {"mkdir", "open", "fsync", "rename", "rmdir", "unlink", "save_file"} <= set(calls)
    outcomes, silent = [], []
    for i in range(1, len(calls) + 1):
        store = prepared(tmp_path / f"{i}")

        def refuse():
            raise OSError(28, "No space left on device")

        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, i, refuse)
            reason = refused(store)
        if "No space left on device" not in reason:
            silent.append(faults.names[i - 1])
        outcomes.append(old_or_new(store))
    assert outcomes == sorted(outcomes)  # old up to the rename, new from there
    assert set(outcomes) == {2, 3}
    assert silent == []


def dying(folder: Path) -> list[int]:
    """Latest steps after a child died before each change on the disk in a save; for a process that may fork."""
    os.fsync = lambda descriptor: None
    found, code = [], 9
    while code == 9:
        store = prepared(folder / f"dying-{len(found)}")
        pid = os.fork()
        if pid == 0:
            Faults(pytest.MonkeyPatch(), len(found) + 1, lambda: os._exit(9), CHANGES)
            save(store)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        found.append(old_or_new(store))
    assert code == 0
    return found
