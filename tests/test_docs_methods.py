"""The page on methods and attacks names every one of them, and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from amu_fast.audit import attacks
from amu_fast.experiments import forget_sets
from amu_fast.unlearn import methods

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "methods.md").read_text() if (ROOT / "docs").is_dir() else ""

pytestmark = pytest.mark.skipif(not PAGE, reason="needs the repository's docs folder")


def rows(heading):
    part = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [line for line in part.splitlines() if line.startswith("| ")][1:]


def named(heading):
    return {name for row in rows(heading) for name in re.findall(r"`(\w+)[`(.]", row)}


def test_every_method_has_its_row():
    assert set(methods.__all__) <= named("Methods")


def test_every_attack_has_its_row():
    attacking = {n for n in attacks.__all__ if hasattr(getattr(attacks, n), "run")}
    assert attacking
    assert attacking <= named("Attacks")


def test_every_kind_of_forget_set_has_its_row():
    kinds = {n for n, c in vars(forget_sets).items() if isinstance(c, type) and n.endswith("Rows")}
    assert kinds == {"RandomRows", "ClassRows", "MemorisedRows", "MislabelledRows"} == named("Forget sets")


@pytest.mark.parametrize("heading", ["Methods", "Forget sets", "Attacks"])
def test_every_row_names_a_test_that_exists_and_tests_it(heading):
    for row in rows(heading):
        path = ROOT / re.findall(r"tests/[\w/]+\.py", row)[-1]
        assert path.is_file(), row
        text = path.read_text()
        assert any(name in text for name in re.findall(r"`(\w+)[`(.]", row)), row
