"""What the caller can get wrong: the error names the value and the fix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import versus_oracle as vs
import zoo

from amu_fast.audit import auditor_step
from amu_fast.errors import AmuFastError, DataError
from amu_fast.followers import HuberisedHinge, Logistic, SquaredHinge

CASE = zoo.random_case(np.random.default_rng(60), cells=[6, 8], d=3, folds=2, ignored=1)
N = len(CASE.labels)


def call(scores=None, labels=None, **changes):
    """`auditor_step` on a good batch with some arguments replaced."""
    arguments = {
        "follower": SquaredHinge(),
        "groups": torch.tensor(CASE.groups),
        "num_groups": 2,
        "train_masks": torch.tensor(CASE.train_masks),
    }
    scores = vs.leaf(CASE) if scores is None else scores
    labels = torch.tensor(CASE.labels) if labels is None else labels
    return auditor_step(scores, labels, **(arguments | changes))


def labels_with(value):
    labels = torch.tensor(CASE.labels)
    labels[3] = value
    return labels


def groups_with(value):
    groups = torch.tensor(CASE.groups)
    groups[3] = value
    return groups


def test_the_batch_itself_is_good():
    assert (call().status == 0).all()


BAD = {
    "label 0": (lambda: call(labels=labels_with(0.0)), "0"),
    "label 2": (lambda: call(labels=labels_with(2.0)), "2"),
    "label NaN": (lambda: call(labels=labels_with(float("nan"))), "nan"),
    "integer scores": (lambda: call(scores=torch.ones(N, 3, dtype=torch.int64)), "int64"),
    "complex scores": (lambda: call(scores=torch.ones(N, 3, dtype=torch.complex64)), "complex64"),
    "flat scores": (lambda: call(scores=torch.zeros(N)), rf"{N}"),
    "batched scores": (lambda: call(scores=torch.zeros(2, N, 3)), rf"2, {N}, 3"),
    "no scores": (lambda: call(scores=torch.zeros(N, 0)), "0"),
    "too few labels": (lambda: call(labels=torch.ones(N - 1)), rf"{N - 1}"),
    "two columns of labels": (lambda: call(labels=torch.ones(N, 2)), rf"{N}, 2"),
    "too few groups": (lambda: call(groups=torch.zeros(N + 1, dtype=torch.int64)), rf"{N + 1}"),
    "float groups": (lambda: call(groups=torch.zeros(N)), "float32"),
    "group below -1": (lambda: call(groups=groups_with(-2)), "-2"),
    "num_groups too small": (lambda: call(num_groups=1), "1"),
    "num_groups 0": (lambda: call(num_groups=0), "0"),
    "integer masks": (lambda: call(train_masks=torch.ones(2, N, dtype=torch.int64)), "int64"),
    "flat mask": (lambda: call(train_masks=torch.tensor(CASE.train_masks[0])), rf"{N}"),
    "short mask": (lambda: call(train_masks=torch.ones(2, N - 2, dtype=torch.bool)), rf"{N - 2}"),
    "held-out masks of fewer folds": (
        lambda: call(held_out_masks=torch.zeros(1, N, dtype=torch.bool)), rf"1, {N}",
    ),
    "float held-out masks": (lambda: call(held_out_masks=torch.zeros(2, N)), "float32"),
    "a row in both parts": (lambda: call(held_out_masks=torch.tensor(CASE.train_masks)), r"\d+"),
    "normaliser 0": (lambda: call(normaliser=0), "0"),
    "negative normaliser": (lambda: call(normaliser=-3.5), "-3.5"),
    "normaliser NaN": (lambda: call(normaliser=float("nan")), "nan"),
    "normaliser inf": (lambda: call(normaliser=float("inf")), "inf"),
    "a string for a payoff": (lambda: call(payoff="hinge"), "'hinge'"),
    "a string for a follower": (lambda: call(follower="squared_hinge"), "'squared_hinge'"),
    "l2 = 0": (lambda: SquaredHinge(l2=0.0), "0"),
    "negative l2": (lambda: Logistic(l2=-0.25), "-0.25"),
    "l2 NaN": (lambda: Logistic(l2=float("nan")), "nan"),
    "l2 inf": (lambda: Logistic(l2=float("inf")), "inf"),
    "width 0": (lambda: HuberisedHinge(width=0.0), "0"),
    "negative width": (lambda: HuberisedHinge(width=-1.0), "-1"),
    "rtol 0": (lambda: SquaredHinge(rtol=-1e-3), "-0.001"),
    "max_steps 0": (lambda: SquaredHinge(max_steps=0), "0"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_the_error_names_the_value_and_a_fix(name):
    action, value = BAD[name]
    with pytest.raises(DataError, match=value) as caught:
        action()
    assert isinstance(caught.value, AmuFastError)
    assert isinstance(caught.value, ValueError)
    assert "must" in str(caught.value), "the message does not say what would be right"


def test_integer_and_float32_labels_are_taken():
    expected = call().per_problem
    assert torch.equal(call(labels=torch.tensor(CASE.labels, dtype=torch.int64)).per_problem, expected)
    assert torch.equal(call(labels=torch.tensor(CASE.labels, dtype=torch.float32)).per_problem, expected)


def test_bad_scores_do_not_raise_but_end_in_a_status():
    scores = torch.tensor(CASE.scores)
    scores[:] = float("nan")
    payoff = call(scores=scores)
    assert payoff.status.unique().tolist() == [3]
    assert payoff.per_problem.isnan().all()
