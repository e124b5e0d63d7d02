"""The floors, the one door and the absence of circles, checked on the source."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from importlinter import cli

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "amu_fast").rglob("*.py"))
MAX_LINES = 250


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """Every module named by an import statement, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{label(path)} imports relatively: {ast.unparse(node)}"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def below(module: str, *packages: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in packages)


def test_contract_holds(capsys):
    status = cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == 0, capsys.readouterr().out


@pytest.mark.parametrize("path", LIBRARY, ids=label)
def test_only_the_door_knows_compiled_code(path):
    """`amu_fast.kernels`, `amu_fast._C` and triton are reached by `backends.py` alone, by string; bench by nobody."""
    closed = ("kernels", "bench", "amu_fast.kernels", "amu_fast._C", "amu_fast.bench", "triton", "functorch")
    assert [module for module in imports(path) if below(module, *closed)] == []
    if path.name != "backends.py":
        assert "amu_fast.kernels" not in path.read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").rglob("*.py")), ids=label)
def test_kernels_are_pure(path):
    allowed = {"torch", "triton", "__future__", "amu_fast"} | set(sys.stdlib_module_names)
    modules = imports(path)
    assert {module.split(".")[0] for module in modules} <= allowed
    assert [m for m in modules if below(m, "amu_fast") and m != "amu_fast" and not below(m, "amu_fast.kernels")] == []


@pytest.mark.parametrize("path", [*LIBRARY, *sorted((ROOT / "bench").rglob("*.py"))], ids=label)
def test_a_file_answers_one_question(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES
