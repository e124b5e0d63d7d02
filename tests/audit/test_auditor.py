"""The thin API: what `Auditor.payoff` adds to `auditor_step`."""

from __future__ import annotations

import pytest
import torch

from amu_fast.audit import Auditor, LogisticPayoff, MemoryBank, auditor_step
from amu_fast.audit.folds import draw, generator_of
from amu_fast.errors import DataError
from amu_fast.followers import SquaredHinge
from amu_fast.status import Status


def sides(n=60, m=60, d=2, shift=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    members = torch.randn(n, d, generator=generator, dtype=torch.float64) + shift
    return members.requires_grad_(), torch.randn(m, d, generator=generator, dtype=torch.float64).requires_grad_()


def test_it_is_auditor_step_on_the_drawn_folds():
    members, others = sides()
    payoff = Auditor(seed=5).payoff(members, others, step=9)
    labels = torch.cat([torch.ones(60), -torch.ones(60)]).long()
    plan = draw(labels, torch.zeros(120, dtype=torch.int64), 3, generator_of(5, 9))
    direct = auditor_step(
        torch.cat([members, others.detach()]), labels, follower=SquaredHinge(l2=0.1), groups=plan.groups,
        num_groups=1, train_masks=plan.train_masks, held_out_masks=plan.held_out_masks, standardize=True,
    )  # fmt: skip
    assert torch.equal(payoff.per_problem, direct.per_problem)


@pytest.mark.parametrize("hold", [True, False])
def test_nonmember_scores_are_held_constant_on_request(hold):
    members, others = sides()
    Auditor(hold_nonmembers=hold).payoff(members, others).value.backward()
    assert members.grad.abs().sum() > 0
    assert (others.grad is None) == hold


def test_holding_nonmembers_keeps_the_member_gradient():
    gradients = []
    for hold in (True, False):
        members, others = sides()
        Auditor(hold_nonmembers=hold).payoff(members, others).value.backward()
        gradients.append(members.grad)
    assert torch.equal(*gradients)


def test_lowering_the_payoff_by_gradient_steps_lowers_it():
    members, others = sides(shift=2.0)
    auditor = Auditor(payoff_kind=LogisticPayoff())
    before = auditor.payoff(members, others).value
    moved = members.detach() - 5 * torch.autograd.grad(before, members)[0]
    assert auditor.payoff(moved, others).value < before


def test_unequal_sides_are_balanced_and_the_rest_gets_no_gradient():
    members, others = sides(n=60, m=20)
    payoff = Auditor().payoff(members, others)
    payoff.value.backward()
    assert int((members.grad.abs().sum(-1) > 0).sum()) <= 20
    assert torch.isfinite(payoff.value)


def test_small_groups_are_pooled_into_an_extra_column():
    members, others = sides(n=90, m=90)
    groups = torch.arange(90) % 10
    groups = torch.where(groups < 8, torch.zeros_like(groups), groups)
    payoff = Auditor(groups="class", min_rows_per_side=30).payoff(members, others, groups=(groups, groups))
    assert payoff.per_problem.shape == (3, 11)
    assert (payoff.status[:, [0, 10]] == Status.CONVERGED).all()
    assert (payoff.status[:, 1:10] == Status.SKIPPED).all()


def test_large_groups_are_not_pooled():
    members, others = sides(n=80, m=80)
    groups = torch.arange(80) % 2
    payoff = Auditor(groups="class", min_rows_per_side=30).payoff(members, others, groups=(groups, groups))
    assert (payoff.status[:, :2] == Status.CONVERGED).all()
    assert (payoff.status[:, 2] == Status.SKIPPED).all()


def test_degenerate_problems_are_skipped_or_raise_by_choice():
    members, others = sides(n=1, m=40)
    payoff = Auditor().payoff(members, others)
    assert (payoff.status == Status.SKIPPED).all()
    assert payoff.value == 0
    with pytest.raises(DataError, match=r"3 problem\(s\) SKIPPED.*at least 2"):
        Auditor(on_degenerate="raise").payoff(members, others)


def test_empty_columns_are_not_degenerate():
    members, others = sides(n=80, m=80)
    groups = torch.arange(80) % 2
    auditor = Auditor(groups="class", on_degenerate="raise")
    assert torch.isfinite(auditor.payoff(members, others, groups=(groups, groups)).value)


def test_the_null_pays_what_chance_pays():
    members, others = sides(n=500, m=500, shift=2.0)
    real = Auditor().payoff(members, others).value
    null = torch.stack([Auditor().payoff(members, others, step=i, permute=True).value for i in range(10)]).mean()
    # Three folds of 30 % held out at one unit of hinge loss each: -0.9; separable rows pay far more.
    assert abs(null + 0.9) < 0.05
    assert real > null + 0.4


def test_bank_rows_strengthen_small_batches_and_get_no_gradient():
    members, others = sides(n=8, m=8)
    bank = MemoryBank(capacity=100)
    old_members, old_others = sides(n=200, m=200, seed=1)
    bank.add(old_members, old_others)
    payoff = Auditor().payoff(members, others, bank=bank)
    payoff.value.backward()
    assert payoff.value > Auditor().payoff(members, others).value
    assert old_members.grad is None
    # The normaliser counts the 16 judged rows alone: at most K * held-out share * 1 per row can be lost at w = 0.
    assert payoff.value > -0.9


def test_bank_keeps_the_latest_rows_and_round_trips():
    bank = MemoryBank(capacity=3)
    bank.add(torch.arange(4.0).unsqueeze(-1), torch.zeros(1, 1))
    bank.add(torch.tensor([[9.0]]), torch.zeros(1, 1))
    assert bank.members.scores.flatten().tolist() == [2, 3, 9]
    copy = MemoryBank(capacity=3)
    copy.load_state_dict(bank.state_dict())
    assert torch.equal(copy.members.scores, bank.members.scores)
    with pytest.raises(DataError, match=r"capacity must be 4.*got a state with 3"):
        MemoryBank(capacity=4).load_state_dict(bank.state_dict())
    with pytest.raises(DataError, match=r"1 columns.*got 2"):
        bank.add(torch.zeros(1, 2), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Auditor(folds=0), "folds must be >= 1, got 0"),
        (lambda: Auditor(groups="author"), "groups must be None or 'class', got 'author'"),
        (lambda: Auditor(on_degenerate="warn"), "on_degenerate must be 'skip' or 'raise', got 'warn'"),
        (lambda: Auditor(min_rows_per_side=1), "min_rows_per_side must be >= 2, got 1"),
        (lambda: MemoryBank(0), "capacity must be >= 1, got 0"),
        (lambda: Auditor().payoff(torch.zeros(3), torch.zeros(3, 1)), r"member_scores must be \(n, d\).*\(3,\)"),
        (lambda: Auditor().payoff(torch.zeros(3, 1), torch.zeros(3, 1).long()), "nonmember_scores.*int64"),
        (lambda: Auditor().payoff(torch.zeros(3, 1), torch.zeros(0, 1)), "at least one row"),
        (lambda: Auditor().payoff(torch.zeros(3, 1), torch.zeros(3, 2)), r"equal columns.*\(3, 1\).*\(3, 2\)"),
        (lambda: Auditor(groups="class").payoff(torch.zeros(3, 1), torch.zeros(3, 1)), "groups must be.*None"),
        (
            lambda: Auditor().payoff(*[torch.zeros(3, 1)] * 2, groups=(torch.zeros(2).long(), torch.zeros(3).long())),
            "groups must be int64 with one entry per row 3",
        ),
        (
            lambda: Auditor().payoff(*[torch.zeros(2, 1)] * 2, groups=(torch.tensor([0, -1]), torch.zeros(2).long())),
            "groups must be >= 0, got -1",
        ),
        (
            lambda: Auditor().payoff(*[torch.zeros(2, 1)] * 2, clusters=(torch.tensor([4, 5]), torch.tensor([5, 6]))),
            "cluster 5 has both member and non-member rows",
        ),
    ],
)
def test_bad_input_names_the_value(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_a_loaded_bank_takes_the_device_and_dtype_of_the_run():
    old = MemoryBank(8)
    old.add(torch.ones(2, 1).double(), torch.zeros(2, 1).double())
    bank = MemoryBank(8)
    bank.load_state_dict(old.state_dict())
    bank.add(torch.ones(1, 1), torch.zeros(1, 1))
    assert bank.members.scores.dtype == torch.float32
    assert len(bank.members.scores) == len(bank.nonmembers.scores) == 3
