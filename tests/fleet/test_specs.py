"""Who sees what: exact balance, both worlds of U-LiRA, references that never saw the forget rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from amu_fast.errors import DataError
from amu_fast.fleet import ShadowSpec, balanced_masks, leave_out_specs, lira_specs, ulira_specs


@pytest.mark.parametrize(("rows", "models"), [(2, 2), (10, 4), (33, 16)])
def test_every_row_is_in_for_exactly_half(rows, models):
    masks = balanced_masks(rows, models, seed=1)
    assert masks.shape == (models, rows)
    assert (masks.sum(axis=0) == models // 2).all()
    assert set(masks.sum(axis=1)) <= {rows // 2, rows - rows // 2}


def test_masks_follow_the_seed_and_halves_differ():
    first, again, other = (balanced_masks(40, 8, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({mask.tobytes() for mask in first}) == 8


def test_lira_specs_train_on_their_half_and_on_what_is_always_there():
    specs = lira_specs([5, 3, 9, 7], 6, always=[0, 1], seed=2)
    counts = torch.zeros(10)
    for spec in specs:
        counts[spec.train] += 1
        assert len(spec.forget) == 0
    assert counts.tolist() == [6, 6, 0, 3, 0, 3, 0, 3, 0, 3]
    assert len({spec.seed for spec in specs}) == 6


def test_ulira_specs_have_both_worlds_and_both_unlearn():
    """For each row 16 forgotten and 16 never models, and every never model has forgotten other rows."""
    judged, retain = list(range(20, 40)), list(range(20))
    specs = ulira_specs(judged, 32, retain=retain)
    for row in judged:
        forgotten = [s for s in specs if row in s.forget]
        never = [s for s in specs if row not in s.train]
        assert (len(forgotten), len(never)) == (16, 16)
        assert all(len(s.forget) == 10 and row not in s.forget for s in never)
    assert all(set(retain) <= set(s.train.tolist()) for s in specs)


def test_references_leave_the_forget_rows_out():
    specs = leave_out_specs(range(10), [2, 3], 3)
    assert all(s.train.tolist() == [0, 1, 4, 5, 6, 7, 8, 9] for s in specs)
    assert len({s.seed for s in specs}) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: balanced_masks(4, 3), "an even number of models >= 2, got 4 and 3"),
        (lambda: balanced_masks(1, 2), ">= 2 rows"),
        (lambda: ShadowSpec(0, []), "at least 1 training row, got 0"),
        (lambda: ShadowSpec(0, [1, 2], [3]), "1 rows to forget were never trained on, among them 3"),
        (lambda: ShadowSpec(0, [1, 2], [1, 2]), "all 2 training rows are to be forgotten"),
        (lambda: ShadowSpec(0, [1, 1]), "each once"),
        (lambda: ShadowSpec(0, [-1, 1]), "row numbers >= 0"),
        (lambda: ShadowSpec(0, torch.tensor([True, False])), "row numbers in one dimension, got torch.bool"),
        (lambda: lira_specs([1, 2], 2, always=[1]), "each once"),
        (lambda: leave_out_specs([1], [], 0), "models must be >= 1, got 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(DataError, match=message):
        call()
