"""Provenance: hashes that follow the content, the commit of our own repository only."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

import amu_fast
from amu_fast import backends
from amu_fast.report import provenance
from amu_fast.report.provenance import Provenance, config_hash, hash_rows, plain
from amu_fast.rows import Rows
from amu_fast.splits import Splits


@dataclass(frozen=True)
class Config:
    """A configuration."""

    l2: float = 1e-2
    function: object = torch.sigmoid
    callbacks: tuple[object, ...] = ()


def tensors(dtype=torch.float32):
    return torch.arange(24.0).reshape(8, 3).to(dtype), torch.arange(8) % 3


def test_config_hash_follows_the_values():
    assert config_hash(Config()) == config_hash(Config())
    assert config_hash(Config()) != config_hash(Config(l2=0.02))
    assert config_hash(Config()) != config_hash(Config(function=torch.tanh))
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})


def test_plain_form_has_no_addresses():
    assert "0x" not in str(plain(Config(callbacks=(object(), Config(), lambda: 0))))
    assert plain({"x": torch.zeros(2, 3), "path": Path("a/b")}) == {"x": "array(2, 3)", "path": "a/b"}


def test_row_hash_follows_content_order_and_dtype():
    inputs, labels = tensors()
    base = hash_rows(Rows.of((inputs, labels)))
    assert base == hash_rows(Rows.of((inputs.clone(), labels.clone())))
    changed = inputs.clone()
    changed[3, 1] += 1e-3
    others = [(changed, labels), (inputs.flip(0), labels.flip(0)), tensors(torch.float64), tensors(torch.bfloat16)]
    assert len({base, *(hash_rows(Rows.of(other)) for other in others)}) == 5


def test_other_data_sets_are_hashed_by_row_numbers_and_labels():
    class Images(Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return torch.rand(3), index % 3

    rows = Rows.of(Images())
    assert hash_rows(rows) == hash_rows(rows), "random augmentation must not change it"
    assert hash_rows(rows) != hash_rows(rows.take(torch.tensor([0, 1])))


def test_collect_holds_versions_backends_and_data():
    data = tensors()
    splits = Splits.from_indices(data, retain=[0, 1, 2], forget=[3, 4], validation=[5, 6])
    found = Provenance.collect(Config(), splits)
    assert found.versions["torch"] == torch.__version__
    assert found.versions["amu_fast"] == amu_fast.__version__
    assert set(found.data_hashes) == {"retain", "forget", "validation"}
    assert [b.operator for b in found.backends] == [row.operator for row in backends.table()]
    assert found.config_hash == config_hash(Config())
    assert Provenance.collect(Config()).data_hashes is None


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Our package's file inside somebody else's repository."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    package = tmp_path / "site-packages" / "amu_fast"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (tmp_path / "theirs.txt").write_text("1")
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]

    def git(*arguments):
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    git("add", "theirs.txt")
    git("commit", "-q", "-m", "theirs")
    monkeypatch.setattr(amu_fast, "__file__", str(package / "__init__.py"))
    provenance._commit.cache_clear()
    yield package, git
    provenance._commit.cache_clear()


def test_commit_is_ours_or_none(installed):
    package, git = installed
    assert provenance._commit() is None, "another project's commit says nothing about our code"
    git("add", str(package))
    git("commit", "-q", "-m", "ours")
    provenance._commit.cache_clear()
    commit = provenance._commit()
    assert len(commit) == 40
    (package / "__init__.py").write_text("changed = 1\n")
    provenance._commit.cache_clear()
    assert provenance._commit() == f"{commit}+changes"


def test_no_git_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    provenance._commit.cache_clear()
    assert provenance._commit() is None
    provenance._commit.cache_clear()
