"""Optional packages are loaded where they are needed, and named where they are missing."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import amu_fast.certificate
from amu_fast.certificate.canonical import canonical_bytes
from amu_fast.certificate.signing import Trust, generate_key
from amu_fast.errors import BackendError

LAZY = {"cryptography", "rfc8785", "pydantic", "yaml", "safetensors", "torch"}
FILES = sorted(Path(amu_fast.certificate.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_loads_them_when_it_is_imported(path):
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    assert not found & LAZY


def test_what_is_missing_is_named_with_its_extra(monkeypatch, tmp_path, keys):
    monkeypatch.setitem(sys.modules, "rfc8785", None)
    with pytest.raises(BackendError, match=r"amu-fast\[certificate\]"):
        canonical_bytes({})
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(BackendError, match=r"amu-fast\[certificate\]"):
        generate_key(tmp_path / "key.pem")
    with pytest.raises(BackendError, match=r"amu-fast\[certificate\]"):
        Trust.load([keys.public])
    assert not list(tmp_path.iterdir())
