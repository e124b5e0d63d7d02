"""Folds: balance, quotas, strata, persons, the bank, the null's permutation, and reproducibility."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amu_fast.audit.folds import Plan, draw, generator_of


def plan(labels, groups, folds=3, seed=0, step=0, **options) -> Plan:
    return draw(torch.tensor(labels), torch.tensor(groups), folds, generator_of(seed, step), **options)


def cell(drawn: Plan, group: int, label: int) -> torch.Tensor:
    return (drawn.groups == group) & (drawn.labels == label)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1, -1]), st.integers(0, 3)), min_size=1, max_size=80), st.integers(0, 99))
def test_every_group_is_balanced_and_every_cell_has_its_quota(rows, seed):
    labels, groups = zip(*rows, strict=True)
    drawn = plan(labels, groups, seed=seed)
    original = torch.tensor(groups)
    assert ((drawn.groups == original) | (drawn.groups == -1)).all()
    assert not (drawn.train_masks & drawn.held_out_masks).any()
    assert ((drawn.train_masks | drawn.held_out_masks) == (drawn.groups >= 0)).all()
    for group in range(4):
        sides = [(original == group) & (torch.tensor(labels) == y) for y in (1, -1)]
        q = min(int(side.sum()) for side in sides)
        for label in (1, -1):
            kept = cell(drawn, group, label)
            assert int(kept.sum()) == q
            if q >= 2:
                expected = min(q - 1, max(1, (7 * q + 5) // 10))
                assert (drawn.train_masks[:, kept].sum(-1) == expected).all()


def test_folds_differ_and_depend_on_seed_and_step_alone():
    labels, groups = [1, -1] * 40, [0] * 80
    first = plan(labels, groups, seed=3, step=7)
    assert not torch.equal(first.train_masks[0], first.train_masks[1])
    assert torch.equal(first.train_masks, plan(labels, groups, seed=3, step=7).train_masks)
    for other in (plan(labels, groups, seed=3, step=8), plan(labels, groups, seed=4, step=7)):
        assert not torch.equal(first.train_masks, other.train_masks)


def test_drawing_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    plan([1, -1] * 10, [0] * 20)
    assert torch.equal(state, torch.random.get_rng_state())


def test_rows_of_one_person_stay_on_one_side_and_the_quota_counts_persons():
    labels = torch.tensor([1] * 40 + [-1] * 40)
    clusters = torch.arange(80) // 4
    drawn = draw(labels, torch.zeros(80, dtype=torch.int64), 5, generator_of(0, 0), clusters=clusters)
    for fold in drawn.train_masks:
        for person in range(20):
            assert len(set(fold[clusters == person].tolist())) == 1
        # 10 persons a side: 7 train.
        assert int(fold[:40].sum()) == 28
        assert int(fold[40:].sum()) == 28


def test_bank_rows_always_train_and_are_never_judged():
    labels = torch.tensor([1, -1] * 20 + [1] * 6 + [-1] * 3)
    bank = torch.arange(49) >= 40
    drawn = draw(labels, torch.zeros(49, dtype=torch.int64), 4, generator_of(0, 0), bank=bank)
    kept = bank & (drawn.groups >= 0)
    # Balanced among themselves: 3 a side.
    assert int((kept & (labels == 1)).sum()) == int((kept & (labels == -1)).sum()) == 3
    assert drawn.train_masks[:, kept].all()
    assert not drawn.held_out_masks[:, bank].any()
    # The judged rows keep their own quota, 14 of 20 a side, whatever the bank holds.
    assert (drawn.train_masks[:, :40].sum(-1) == 28).all()


def test_the_null_permutes_labels_within_groups_and_keeps_them_balanced():
    groups = torch.arange(120) % 3
    labels = torch.where(torch.arange(120) < 60, 1, -1)
    drawn = draw(labels, groups, 2, generator_of(1, 0), permute=True)
    for group in range(3):
        assert int(cell(drawn, group, 1).sum()) == int(cell(drawn, group, -1).sum()) == 20
    moved = (drawn.labels != labels).float().mean()
    assert 0.3 < moved < 0.7


def test_the_null_moves_whole_persons():
    labels = torch.tensor([1] * 40 + [-1] * 40)
    clusters = torch.arange(80) // 4
    drawn = draw(labels, torch.zeros(80, dtype=torch.int64), 2, generator_of(0, 0), clusters=clusters, permute=True)
    assert all(len(set(drawn.labels[clusters == person].tolist())) == 1 for person in range(20))
    assert not torch.equal(drawn.labels, labels)


def test_permuted_labels_are_uncorrelated_with_the_true_ones():
    labels = [1] * 50 + [-1] * 50
    agreement = [
        (plan(labels, [0] * 100, step=i, permute=True).labels * torch.tensor(labels)).sum() for i in range(400)
    ]
    # Agreement of one draw is 2(2h - 50) with h hypergeometric, deviation 10; 400 draws: mean within 4 errors of 0.
    assert abs(float(torch.stack(agreement).double().mean())) < 4 * 10 / 20
