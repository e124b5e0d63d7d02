"""What importing and installing the package does, and does not do."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import amu_fast

ROOT = Path(__file__).parent.parent
#: Slow to import, or not there on every machine: loaded inside the functions that need them.
LAZY = ("triton", "sklearn", "scipy.stats", "matplotlib", "pandas", "rich", "typer", "pydantic")
LOADED = "import json, sys; {}; print(json.dumps(sorted(sys.modules)))"


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def modules_after(statement: str) -> set[str]:
    return set(json.loads(python(LOADED.format(statement))))


def test_import_of_unlearn_loads_nothing_slow():
    """Beyond what torch itself loads, which differs between its builds."""
    ours = modules_after("import amu_fast.unlearn") - modules_after("import torch")
    assert "amu_fast.unlearn" in ours
    assert [m for m in ours if any(m == name or m.startswith(f"{name}.") for name in LAZY)] == []


def test_import_of_unlearn_leaves_cuda_alone():
    assert python("import amu_fast.unlearn, torch; print(torch.cuda.is_initialized())").strip() == "False"


def test_import_of_the_package_alone_loads_no_torch():
    assert "torch" not in modules_after("import amu_fast; amu_fast.__version__, dir(amu_fast)")


@pytest.mark.parametrize("name", [n for n in amu_fast.__all__ if not n.startswith("__")])
def test_public_names_resolve(name):
    assert getattr(amu_fast, name).__name__ == name
    assert name in dir(amu_fast)


def test_packages_are_not_shadowed():
    import amu_fast.audit
    import amu_fast.unlearn

    assert "unlearn" not in amu_fast.__all__
    assert "audit" not in amu_fast.__all__
    assert amu_fast.unlearn.__spec__.submodule_search_locations
    assert amu_fast.audit.__spec__.submodule_search_locations


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="Stackelberg"):
        amu_fast.Stackleberg  # noqa: B018


def test_version_is_the_installed_one():
    assert importlib.metadata.version("amu-fast") == amu_fast.__version__


def test_kernels_and_bench_are_installed_below_the_package():
    code = "import amu_fast.kernels as k, amu_fast.bench as b; print(k.__file__, b.__file__)"
    for path in python(code).split():
        assert Path(path).is_file()


def test_marked_as_typed():
    assert (Path(amu_fast.__file__).parent / "py.typed").is_file()


def test_triton_is_never_a_requirement():
    """A CUDA build of torch names its own version; a second opinion could only clash."""
    assert [r for r in importlib.metadata.requires("amu-fast") if r.startswith("triton") and "extra ==" not in r] == []
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in pins if line.startswith("triton")] == []


def setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "--quiet", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment)


def test_build_mode_is_checked():
    result = setup("--version", AMU_FAST_BUILD_EXT="yes")
    assert result.returncode != 0
    assert "AMU_FAST_BUILD_EXT must be auto, 1 or 0, got 'yes'" in result.stderr


@pytest.mark.parametrize("archs", ["9.0", "sm_90", ""])
def test_cuda_architectures_are_checked(archs):
    result = setup("--version", AMU_FAST_CUDA_ARCHS=archs)
    assert result.returncode != 0
    assert f'AMU_FAST_CUDA_ARCHS must be like "80;90", got {archs!r}' in result.stderr


@pytest.mark.parametrize(("mode", "returncode"), [("auto", 0), ("1", 1)])
def test_without_a_compiler(mode, returncode, tmp_path):
    """Mode auto installs and records the reason, mode 1 fails."""
    arguments = ("build", "--build-base", str(tmp_path / "build"), "--build-lib", str(tmp_path / "lib"))
    result = setup(*arguments, AMU_FAST_BUILD_EXT=mode, CXX="/no/such/compiler", CC="/no/such/compiler")
    assert result.returncode == returncode
    if mode == "auto":
        record = json.loads((tmp_path / "lib" / "amu_fast" / "_build_info.json").read_text())
        assert not record["built"]
        assert "did not build with /no/such/compiler (does not run" in record["reason"]
        assert not record["cuda"]["built"]
        if not torch.version.cuda:
            assert record["cuda"]["reason"] == f"torch {torch.__version__} has no CUDA"


def test_pure_python_build(tmp_path):
    arguments = ("build", "--build-base", str(tmp_path / "build"), "--build-lib", str(tmp_path / "lib"))
    assert setup(*arguments, AMU_FAST_BUILD_EXT="0").returncode == 0
    package = tmp_path / "lib" / "amu_fast"
    record = json.loads((package / "_build_info.json").read_text())
    assert record["reason"] == record["cuda"]["reason"] == "AMU_FAST_BUILD_EXT=0"
    assert (package / "kernels" / "__init__.py").is_file()
    assert (package / "py.typed").is_file()
    assert list(package.glob("_C*")) == []
