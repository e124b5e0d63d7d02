"""One auditor step against the dense oracle, and the shapes of difficulty that real batches have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import versus_oracle as vs
import zoo

from amu_fast.audit import auditor_step
from amu_fast.followers import SquaredHinge

LOSSES = pytest.mark.parametrize("loss", zoo.LOSSES)
PAYOFFS = pytest.mark.parametrize("payoff", zoo.PAYOFFS)
STANDARDIZE = pytest.mark.parametrize("standardize", [False, True], ids=["raw", "standardized"])

SIZES = {
    "ten rows": {"cells": [5], "d": 1},
    "ragged, five folds": {"cells": [5, 9, 40], "d": 3, "folds": 5, "ignored": 4},
    "fifty groups": {"cells": [3 + g % 9 for g in range(50)], "d": 11, "folds": 2, "ignored": 1},
    "both sides of n = p": {"cells": [60, 13, 46, 47], "d": 64, "folds": 2},
    "few rows, many scores": {"cells": [13, 20], "d": 300, "l2": 1e-3},
    "many rows": {"cells": [1428], "d": 24, "folds": 1},
}
LARGE = {
    "2000 x 300": {"cells": [1428], "d": 300, "folds": 2},
    "50 groups x 5 folds": {"cells": [20 + g for g in range(50)], "d": 40, "folds": 5, "l2": 1e-3},
    "1000 x 300, groups": {"cells": [700, 300, 30], "d": 300, "folds": 3},
}


def make(seed, bank=False, **options):
    rng = np.random.default_rng(seed)
    case = zoo.random_case(rng, **options)
    return zoo.with_bank(rng, case) if bank else case


@pytest.mark.parametrize("name", SIZES)
@LOSSES
@PAYOFFS
@STANDARDIZE
def test_matches_oracle(name, loss, payoff, standardize):
    vs.assert_matches(make(11, loss=loss, payoff=payoff, standardize=standardize, **SIZES[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
@LOSSES
@PAYOFFS
@STANDARDIZE
def test_matches_oracle_when_large(name, loss, payoff, standardize):
    vs.assert_matches(make(12, loss=loss, payoff=payoff, standardize=standardize, **LARGE[name]))


@LOSSES
@STANDARDIZE
def test_explicit_held_out_rows_bank_and_normaliser(loss, standardize):
    case = make(13, bank=True, cells=[20, 31], d=5, folds=3, ignored=3, loss=loss, standardize=standardize)
    assert (~case.train_masks & ~case.held_out_masks).any(axis=1).all()
    assert case.train_masks.all(axis=0).any()
    vs.assert_matches(case)


@LOSSES
def test_row_held_out_in_no_fold_counts_in_the_default_normaliser(loss):
    case = replace(make(14, bank=True, cells=[20], d=4, loss=loss, ignored=5), normaliser=None)
    _, payoff, _ = vs.assert_matches(case)
    explicit = vs.step(replace(case, normaliser=40), vs.leaf(case))
    assert torch.equal(explicit.per_problem, payoff.per_problem)


def test_default_groups_and_masks_are_one_group_and_the_rest():
    case = make(15, cells=[12], d=3, folds=2)
    full = vs.step(case, vs.leaf(case))
    short = auditor_step(
        vs.leaf(case), torch.tensor(case.labels), follower=SquaredHinge(l2=case.l2, rtol=1e-14),
        train_masks=torch.tensor(case.train_masks),
    )  # fmt: skip
    assert torch.equal(full.per_problem, short.per_problem)
    assert torch.equal(full.params, short.params)


def test_fields_of_a_payoff():
    case = make(16, cells=[12, 8, 1], d=3, folds=2)
    payoff, truth = vs.step(case, vs.leaf(case), rtol=1e-10), case.truth()
    bounds = payoff.bounds
    measures = (bounds.param_bound, bounds.adjoint_bound, bounds.gradient_bound, bounds.uncertain_rows)
    ends = (payoff.status, payoff.accuracy, payoff.residual_norms, payoff.gradient_norms, payoff.steps)
    for value in measures + ends:
        assert value.shape == (2, 3)
        assert not value.requires_grad
    assert payoff.params.shape == (2, 3, 4)
    assert payoff.params.dtype == torch.float64
    assert not payoff.params.requires_grad
    assert payoff.status.dtype == torch.int8
    assert payoff.per_problem.requires_grad
    assert torch.equal(payoff.value, payoff.per_problem.sum())
    solved = ~truth.skipped
    assert np.allclose(payoff.accuracy.numpy()[solved], truth.accuracy[solved], rtol=1e-6)
    assert (payoff.steps.numpy()[solved] > 0).all()
    scale = np.linalg.norm(case.scores, axis=1).max()
    assert (payoff.gradient_norms.numpy()[solved] <= 1e-9 * scale).all()
    assert (payoff.residual_norms.numpy()[solved] <= 1e-12 * scale).all()


@LOSSES
@STANDARDIZE
def test_bitwise_repeatable_and_independent_of_the_other_problems(loss, standardize):
    case = make(27, cells=[9, 30, 12], d=13, folds=3, loss=loss, standardize=standardize, normaliser=100)
    payoff, gradients = vs.solved(case)
    again, same = vs.solved(case)
    assert torch.equal(payoff.per_problem, again.per_problem)
    assert np.array_equal(gradients, same)
    single = replace(case, train_masks=case.train_masks[1:2], groups=np.where(case.groups == 2, 0, -1), num_groups=1)
    alone, alone_gradients = vs.solved(single)
    assert vs.distance(alone.params[0, 0], payoff.params[1, 2].numpy()) <= 1e-11 * float(payoff.params[1, 2].norm())
    rows = case.groups == 2
    assert vs.distance(alone_gradients[0, rows], gradients[1, rows]) <= 1e-9 * vs.size(gradients[1, rows])


@LOSSES
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_standardized_step_is_invariant_to_affine_maps(loss, scale):
    """S ↦ a∘s + b leaves the payoff as it is and divides the gradient by a."""
    case = make(28, cells=[20], d=4, loss=loss, standardize=True)
    payoff, gradients = vs.solved(case)
    factors = scale * np.array([1.0, 2.0, 0.5, 4.0])
    moved, moved_gradients = vs.solved(replace(case, scores=(case.scores + 3.0) * factors))
    assert vs.distance(moved.per_problem.detach(), payoff.per_problem.detach().numpy()) <= 1e-12
    assert vs.distance(moved_gradients * factors, gradients) <= 1e-9 * vs.size(gradients)


@LOSSES
@pytest.mark.parametrize("scale", [1e-8, 1e4])
def test_raw_scores_of_extreme_scale(loss, scale):
    case = make(29, cells=[20], d=4, loss=loss, payoff="logistic")
    vs.assert_matches(replace(case, scores=case.scores * scale), rtol=1e-8)


@LOSSES
@STANDARDIZE
@pytest.mark.parametrize(("dtype", "unit"), [(torch.float32, 2.0**-24), (torch.bfloat16, 2.0**-8)])
def test_low_precision_scores_cost_only_the_output_cast(loss, standardize, dtype, unit):
    """The arithmetic is float64 whatever the scores' type: only the rows of the gradient are rounded."""
    case = make(30, cells=[12, 25], d=6, folds=2, loss=loss, payoff="logistic", standardize=standardize)
    low = vs.leaf(case, dtype)
    truth = replace(case, scores=low.detach().double().numpy()).truth()
    payoff = vs.step(case, low)
    gradients = vs.fold_gradients(payoff, low)
    assert low.dtype == dtype
    assert not truth.near_kink(1e-9)
    assert vs.distance(payoff.params, truth.params) <= 1e-9 * vs.size(truth.params)
    for k in range(2):
        exact = truth.gradients[k].astype(float)
        assert (np.abs(gradients[k] - exact) <= 1.01 * unit * np.abs(exact) + 1e-9 * np.abs(exact).max()).all()


@LOSSES
@STANDARDIZE
def test_direct_and_implicit_parts_add_up(loss, standardize):
    """Equation (8) alone, equation (7) alone, and both; raw, the parts own held-out and training rows."""
    case = make(36, cells=[12, 9], d=4, loss=loss, standardize=standardize)
    parts = {}
    for name in ("full", "direct", "implicit"):
        scores = vs.leaf(case)
        payoff = auditor_step(scores, torch.tensor(case.labels), parts=name, **vs.arguments(case))
        payoff.value.backward()
        parts[name] = scores.grad.numpy()
        assert bool(payoff.bounds.gradient_bound.isnan().all()) == (name != "full")
    assert vs.distance(parts["direct"] + parts["implicit"], parts["full"]) <= 1e-14 * vs.size(parts["full"])
    if not standardize:
        train = case.train_masks[0]
        assert not parts["direct"][train].any()
        assert not parts["implicit"][~train].any()
