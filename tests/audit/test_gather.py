"""Gathering on one rank, without and with a process group; several ranks are in tests/distributed."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from amu_fast.audit import Auditor
from amu_fast.audit.gather import check_agreement, gather_rows, gather_sides, global_mean, world_size


@pytest.fixture(params=["no group", "a group of one"])
def alone(request, tmp_path):
    if request.param == "no group":
        yield
        return
    if not dist.is_gloo_available():
        pytest.skip("torch without gloo")
    dist.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_one_rank_is_left_as_it_is():
    assert world_size() == 1
    members, others = torch.randn(40, 2, requires_grad=True), torch.randn(35, 2)
    people = torch.arange(40), torch.arange(40, 75)
    assert gather_rows(members) is members
    sides = gather_sides(members, others, None, people)
    assert sides.member_scores is members
    assert sides.clusters is people
    # its fields are the arguments of the payoff, in order
    there = Auditor().payoff(*sides, step=3).value
    assert torch.equal(there, Auditor().payoff(members, others, clusters=people, step=3).value)
    check_agreement(members, "members")


@pytest.mark.usefixtures("alone")
def test_the_mean_is_that_of_the_rows():
    total = torch.tensor(6.0, requires_grad=True)
    mean = global_mean(total, torch.tensor(4))
    mean.backward()
    assert (float(mean.detach()), float(total.grad)) == (1.5, 0.25)
    assert global_mean(torch.tensor(0.0), torch.tensor(0.0)).isnan()
