"""The one door: what is there is used and named, what is absent is recorded, what is broken raises."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from amu_fast import backends, ops
from amu_fast.errors import BackendError
from amu_fast.ops.schemas import NAMESPACE, SCHEMAS, fingerprint

PACKAGE = Path(ops.__file__).parent.parent
MARKER = f"{NAMESPACE}::{fingerprint()}"


def test_table_has_every_operator_on_every_device():
    rows = [(row.operator, row.device) for row in backends.table()]
    assert rows == [(f"{NAMESPACE}::{name}", device) for name in SCHEMAS for device in ("CPU", "CUDA")]
    assert all(row.why for row in backends.table())


def test_extension_serves_glm_hvp_where_it_is_built():
    info = backends.build_info()
    if info.library is None:
        pytest.skip(f"no extension here: {info.reason}")
    row = next(r for r in backends.table() if (r.operator, r.device) == ("amu_fast::glm_hvp", "CPU"))
    assert row.implementation == "C++"
    assert info.reason == ""
    assert hasattr(torch.ops.amu_fast, fingerprint())


def test_named_library_must_exist(tmp_path):
    with pytest.raises(BackendError, match=r"nowhere\.so does not exist; rebuild it"):
        backends.load([], MARKER, tmp_path / "nowhere.so")


def test_corrupt_library_raises(tmp_path):
    broken = tmp_path / "_C.abi3.so"
    broken.write_bytes(b"\x7fELF and nothing else")
    with pytest.raises(BackendError, match=r"_C\.abi3\.so does not load into torch .*; rebuild it"):
        backends.load([], MARKER, broken)


def test_library_built_for_other_schemas_raises():
    library = backends.build_info().library
    if library is None:
        pytest.skip("no extension here")
    other = f"{NAMESPACE}::{fingerprint({**SCHEMAS, 'glm_hvp': '(Tensor x) -> Tensor'})}"
    with pytest.raises(BackendError, match="was built for other operator schemas"):
        backends.load([], other, Path(library))


def test_table_needs_operators(monkeypatch):
    monkeypatch.setattr(backends, "_operators", [])
    with pytest.raises(BackendError, match=r"import amu_fast\.ops first"):
        backends.table()


def test_damaged_record_raises(monkeypatch, tmp_path):
    monkeypatch.setattr(backends, "_RECORD", tmp_path / "_build_info.json")
    (tmp_path / "_build_info.json").write_text("[1, 2")
    with pytest.raises(BackendError, match="is damaged"):
        backends.build_info()


@pytest.fixture
def copy(tmp_path):
    """The package without its extension, in a folder of its own."""
    skip = shutil.ignore_patterns("_C*", "_build_info.json", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "amu_fast", ignore=skip)
    return tmp_path


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


def test_absent_extension_is_recorded(copy):
    """The reference runs, and the table says why."""
    (copy / "amu_fast" / "_build_info.json").write_text(json.dumps({"built": False, "reason": "no compiler"}))
    code = """
import torch
from amu_fast import backends
from amu_fast.ops.glm import glm_hvp
print(glm_hvp(torch.eye(2), torch.ones(2), torch.tensor([1.0, 2.0]), 1.0, False).tolist())
print(*{(row.implementation, row.why) for row in backends.table() if row.device == "CPU"})
print(backends.build_info().library)
"""
    result = run(copy, code)
    assert result.stdout.splitlines() == ["[2.0, 4.0]", "('PyTorch reference', 'no compiler')", "None"], result.stderr


def test_broken_extension_stops_the_import(copy):
    (copy / "amu_fast" / "_C.abi3.so").write_bytes(b"not a library")
    result = run(copy, "import amu_fast.ops.glm")
    assert result.returncode != 0
    assert "BackendError" in result.stderr
    assert "rebuild it" in result.stderr
