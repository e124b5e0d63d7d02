"""The one door: what is there is used and named, what is absent is recorded, what is broken raises."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
import types
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


@pytest.fixture
def operator():
    """An operator of its own with a reference, as `define` makes them, and its qualified name."""
    library = torch.library.Library("amu_fast_tests", "FRAGMENT")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: 2 * x, "CompositeExplicitAutograd")
    yield "amu_fast_tests::twice"
    library._destroy()


@pytest.fixture
def launched(operator, monkeypatch):
    """A launcher of that operator, from a module that stands in for a file of kernels."""
    module = types.ModuleType("amu_fast.kernels.standing_in")
    module.launch = lambda x: x + 100
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(backends._LAUNCHERS, operator, ("standing_in", "launch"))
    monkeypatch.setitem(backends.references, operator, lambda x: 2 * x)
    backends._imported_launcher.cache_clear()
    yield operator
    backends._imported_launcher.cache_clear()


def test_every_launcher_has_an_operator_and_a_file():
    """The table of launchers agrees with the schemas and with the source of the kernels."""
    for name, (module, function) in backends._LAUNCHERS.items():
        operator = name.removeprefix(f"{NAMESPACE}::")
        assert operator in SCHEMAS
        arguments = [a.name for a in getattr(torch.ops.amu_fast, operator).default._schema.arguments]
        tree = ast.parse((PACKAGE.parent / "kernels" / f"{module}.py").read_text())
        found = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
        assert [a.arg for a in found.args.args] == arguments


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_launcher_serves_narrow_numbers(launched, dtype):
    assert backends._launcher(launched)(torch.ones(1, dtype=dtype)).item() == 101


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_reference_serves_what_the_kernels_do_not(launched, dtype):
    assert backends._launcher(launched)(torch.ones(1, dtype=dtype)).item() == 2


def test_wide_rows_go_to_the_cuda_library_where_it_is(launched, operator, monkeypatch):
    monkeypatch.setitem(backends._WIDE, launched, "amu_fast_tests::_absent")
    assert backends._launcher(launched)(torch.ones(5000))[0].item() == 101
    monkeypatch.setitem(backends._WIDE, launched, operator)
    assert backends._launcher(launched)(torch.ones(5000))[0].item() == 2
    assert backends._launcher(launched)(torch.ones(4096))[0].item() == 101


@pytest.mark.parametrize("module", ["standing_out", "standing_in"])
def test_broken_kernel_raises(launched, module, monkeypatch):
    """A module that is missing, or lacks its launcher, is named with the way out."""
    monkeypatch.setitem(backends._LAUNCHERS, launched, (module, "absent"))
    with pytest.raises(BackendError, match=rf"kernel of {launched} cannot be imported \(.*\); reinstall triton"):
        backends._launcher(launched)(torch.ones(1))


@pytest.fixture
def cuda_build(monkeypatch):
    """As if torch had CUDA and triton lay beside it; neither is called."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(backends, "_served_by_triton", {})
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "triton" else find(name))
    monkeypatch.setattr(backends.metadata, "version", lambda name: "3.6.0")


def rows_of(operator):
    return {row.device: row for row in backends.table() if row.operator == operator}


def test_registered_launchers_are_in_the_table(launched, cuda_build, monkeypatch):
    monkeypatch.setattr(backends, "_operators", [launched])
    assert rows_of(launched)["CUDA"].why == "no compiled kernel for CUDA"
    backends._register_launchers()
    try:
        assert rows_of(launched)["CUDA"] == backends.Row(
            launched, "CUDA", "Triton", "triton 3.6.0; float64 runs the PyTorch reference"
        )
        backends._register_launchers()
        assert list(backends._served_by_triton) == [launched]
    finally:
        backends._served_by_triton[launched]._destroy()
    assert rows_of(launched)["CPU"].implementation == "PyTorch reference"


def test_kernels_of_the_cuda_library_win(launched, cuda_build, monkeypatch):
    monkeypatch.setattr(backends, "_operators", [launched])
    library = torch.library.Library("amu_fast_tests", "IMPL")
    library.impl("twice", lambda x: x, "CUDA")
    try:
        backends._register_launchers()
        assert backends._served_by_triton == {}
        assert rows_of(launched)["CUDA"].implementation == "CUDA C++"
    finally:
        library._destroy()


def test_absent_triton_is_recorded(launched, cuda_build, monkeypatch):
    monkeypatch.setattr(backends, "_operators", [launched])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    backends._register_launchers()
    assert rows_of(launched)["CUDA"] == backends.Row(
        launched, "CUDA", "PyTorch reference", "triton is not installed; pip install amu-fast[triton]"
    )


def test_torch_without_cuda_is_recorded(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    rows = [row for row in backends.table() if row.device == "CUDA" and row.implementation == "PyTorch reference"]
    assert rows
    assert {row.why for row in rows} == {f"torch {torch.__version__} has no CUDA"}


def test_cuda_library_is_left_alone_without_cuda(monkeypatch, tmp_path):
    """It does not load into a CPU build of torch; with CUDA a broken one raises."""
    (tmp_path / "_C_cuda.abi3.so").write_bytes(b"not a library")
    library = backends.build_info().library
    if library is None:
        pytest.skip("no extension here")
    monkeypatch.setattr(backends, "_PACKAGE", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    backends.load([], MARKER, Path(library))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(BackendError, match=r"_C_cuda\.abi3\.so does not load into torch .*; rebuild it"):
        backends.load([], MARKER, Path(library))


def test_record_of_the_cuda_library(monkeypatch, tmp_path):
    monkeypatch.setattr(backends, "_RECORD", tmp_path / "_build_info.json")
    monkeypatch.setattr(backends, "_PACKAGE", tmp_path)
    record = {"built": True, "reason": "", "cuda": {"built": False, "reason": "no nvcc"}}
    (tmp_path / "_build_info.json").write_text(json.dumps(record))
    info = backends.build_info()
    assert (info.cuda_library, info.cuda_reason) == (None, "no nvcc")
    assert info.reason == f"{tmp_path / '_C'}* was deleted after it was built"
    (tmp_path / "_C_cuda.abi3.so").write_bytes(b"")
    info = backends.build_info()
    assert (info.cuda_library, info.cuda_reason) == (str(tmp_path / "_C_cuda.abi3.so"), "")


def test_import_touches_neither_cuda_nor_triton(tmp_path):
    """Where triton is there and torch has CUDA, as far as can be said without either."""
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("raise RuntimeError('triton was imported')")
    code = """
import sys, torch
torch.version.cuda = "13.0"
import amu_fast.ops
from amu_fast import backends
print(sorted(backends._served_by_triton) == sorted(backends._LAUNCHERS), "triton" in sys.modules,
      torch.cuda.is_initialized())
"""
    result = run(tmp_path, code)
    assert result.stdout.split() == ["True", "False", "False"], result.stderr
