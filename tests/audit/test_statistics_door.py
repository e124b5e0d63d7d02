"""The door to the statistics: every name that docs/statistics.md gives exists, and so does every test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from amu_fast.audit import Auditor, statistics
from amu_fast.splits import Splits

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "statistics.md").read_text().split("## Where each rule lives")[1]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.splitlines() if line.startswith("| ")]
RULES = {row[0]: row for row in ROWS[1:]}


def test_every_rule_has_its_row_and_all_names_resolve():
    assert list(RULES) == [*(f"S{i}" for i in range(1, 17)), "verdict"]
    assert sorted(statistics.__all__) == sorted(set(statistics.__all__))
    for name in statistics.__all__:
        assert getattr(statistics, name) is not None


@pytest.mark.parametrize("rule", RULES)
def test_named_functions_exist(rule):
    others = {"Splits": Splits, "Auditor": Auditor}
    for name in re.findall(r"`([A-Za-z_.0-9]+)(?:\(.*?\))?`", RULES[rule][1]):
        first, *rest = name.split(".")
        found = others.get(first) or getattr(statistics, first)
        assert not rest or rest[0] in dir(found) or rest[0] in found.__dataclass_fields__


@pytest.mark.parametrize("rule", RULES)
def test_named_tests_exist(rule):
    files = list((ROOT / "tests" / "audit").glob("test_*.py"))
    functions = {
        node.name
        for file in files
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    names = re.findall(r"`(test_[a-z0-9_.*]+)`", RULES[rule][2])
    assert names
    for name in names:
        pattern = re.escape(name).replace(r"\*", ".*")
        assert any(re.fullmatch(pattern, known) for known in functions | {file.name for file in files}), name
