"""Two ranks with uneven batches make the operator of one large batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from linalg import networks as nets

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    script = [sys.executable, str(HERE / "modules_two_ranks.py"), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def dense():
    model, batch = nets.mlp(), nets.rows()
    return {
        "hessian": nets.dense_hessian(model, batch),
        "gauss-newton": nets.dense_gauss_newton(model, batch, lambda z, b: F.cross_entropy(z, b[1])),
        "fisher": nets.dense_fisher(model, batch),
    }


def vector():
    return nets.normal(sum(p.numel() for p in nets.mlp().parameters()), seed=3)


@pytest.mark.parametrize("name", ["hessian", "gauss-newton", "fisher"])
def test_products_are_those_of_all_rows_on_every_rank(ranks, dense, name):
    expected = dense[name] @ vector()
    cases = [f"{name} {mode} {label}" for mode in ("double_backward", "jvp") for label in ("plain", "ddp")]
    for case in cases:
        assert torch.equal(ranks[0][case], ranks[1][case])
        assert (ranks[0][case] - expected).norm() <= 1e-12 * expected.norm(), case
    for case in (f"{name} finite_difference plain", f"{name} finite_difference ddp", f"{name} sharded"):
        assert torch.equal(ranks[0][case], ranks[1][case])
        assert (ranks[0][case] - expected).norm() <= 1e-7 * expected.norm(), case


def test_every_rank_solves_the_same_system(ranks, dense):
    matrix = dense["gauss-newton"] + 0.1 * torch.eye(len(vector()), dtype=torch.float64)
    assert torch.equal(ranks[0]["solution"], ranks[1]["solution"])
    assert (matrix @ ranks[0]["solution"] - vector()).norm() <= 1e-9 * vector().norm()


def test_without_a_group_a_rank_is_alone(ranks):
    model, batch = nets.mlp(), nets.rows()
    for rank, part in ((0, slice(0, 7)), (1, slice(7, 11))):
        expected = nets.dense_hessian(model, (batch[0][part], batch[1][part])) @ vector()
        assert (ranks[rank]["alone"] - expected).norm() <= 1e-12 * expected.norm()


def test_sharded_parameters(ranks):
    for found in ranks:
        assert found["restored"]
        assert 'mode="finite_difference"' in found["refused"]
        assert "between 1 and 2 batches" in found["uneven"]
        assert "refresh()" in found["stale"]
