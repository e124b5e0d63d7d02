"""Degenerate batches: too few rows, equal rows, constant columns, empty parts, rows on a kink, NaN."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import versus_oracle as vs
import zoo

from amu_fast.status import Status

LOSSES = pytest.mark.parametrize("loss", zoo.LOSSES)
PAYOFFS = pytest.mark.parametrize("payoff", zoo.PAYOFFS)
STANDARDIZE = pytest.mark.parametrize("standardize", [False, True], ids=["raw", "standardized"])


def make(seed, **options):
    return zoo.random_case(np.random.default_rng(seed), **options)


@LOSSES
@STANDARDIZE
def test_ignored_rows_do_not_matter(loss, standardize):
    case = make(17, cells=[9, 14], d=4, folds=2, ignored=6, loss=loss, standardize=standardize)
    spoiled = case.scores.copy()
    spoiled[case.groups < 0] *= 1e6
    payoff, gradients = vs.solved(case)
    again, spoiled_gradients = vs.solved(replace(case, scores=spoiled))
    assert torch.equal(payoff.per_problem, again.per_problem)
    assert np.array_equal(gradients, spoiled_gradients)
    assert not gradients[:, case.groups < 0].any()


def test_too_few_rows_are_skipped_and_leave_the_rest_alone():
    case = make(18, cells=[9, 1, 7, 0], d=3, folds=2)
    one_sided = case.groups.copy()
    one_sided[(case.groups == 2) & (case.labels > 0)] = -1
    case = replace(case, groups=one_sided, normaliser=50)
    truth, payoff, _ = vs.assert_matches(case)
    assert truth.skipped.tolist() == [[False, True, True, True]] * 2
    for bound in (payoff.bounds.param_bound, payoff.bounds.adjoint_bound, payoff.bounds.gradient_bound):
        assert not bound.numpy()[truth.skipped].any()
    only = replace(case, groups=np.where(case.groups == 0, 0, -1), num_groups=1)
    alone = vs.step(only, vs.leaf(only))
    assert torch.allclose(alone.per_problem[:, 0], payoff.per_problem[:, 0], rtol=1e-13, atol=0)


def test_all_problems_skipped_is_a_zero_with_a_zero_gradient():
    case = make(19, cells=[1, 1], d=2)
    scores = vs.leaf(case)
    payoff = vs.step(case, scores)
    payoff.value.backward()
    assert payoff.status.unique().tolist() == [Status.SKIPPED]
    assert float(payoff.value) == 0
    assert not scores.grad.any()


def mirrored(rng, **options):
    """Members that train are copies of the non-members that train: ∇g(0) = 0. Held-out rows differ."""
    half = rng.standard_normal((12, 5))
    scores = np.concatenate([half, half])
    mask = np.tile(np.arange(12) < 8, 2)
    scores[~mask] = rng.standard_normal((8, 5))
    labels = np.repeat([1.0, -1.0], 12)
    return zoo.Case(scores, labels, mask[None], np.zeros(24, np.int64), 1, **options)


@LOSSES
@PAYOFFS
@STANDARDIZE
def test_identical_rows_on_both_sides(loss, payoff, standardize):
    """w* = 0 but for the rounding of the moments; the training rows still get a gradient, the others none."""
    case = mirrored(np.random.default_rng(20), loss=loss, payoff=payoff, standardize=standardize)
    truth = case.truth()
    result, gradients = vs.solved(case)
    assert result.status.tolist() == [[0]]
    assert float(result.params.abs().max()) <= 1e-13
    assert vs.distance(result.per_problem.detach(), truth.per_problem) <= 1e-13
    assert vs.size(truth.gradients) > 0.01
    assert vs.distance(gradients, truth.gradients) <= 1e-11 * vs.size(truth.gradients)
    assert np.abs(gradients[~case.train_masks]).max() <= 1e-13


@STANDARDIZE
def test_all_rows_on_a_kink(standardize):
    """Identical sides and width 1: every margin is 0 = 1 − ω. The error is within the bound, every row counted."""
    case = mirrored(np.random.default_rng(33), loss="huberised_hinge", width=1.0, standardize=standardize)
    payoff, gradients = vs.solved(case)
    assert payoff.status.tolist() == [[0]]
    assert payoff.bounds.uncertain_rows.tolist() == [[16]]
    assert vs.distance(gradients, case.truth().gradients) <= float(payoff.bounds.gradient_bound) < np.inf


@LOSSES
@PAYOFFS
def test_all_rows_equal(loss, payoff):
    """Every score the same number: standardised, nothing is left but the intercept."""
    case = replace(mirrored(np.random.default_rng(34)), scores=np.full((24, 3), 7.25), loss=loss, payoff=payoff)
    raw, raw_gradients = vs.solved(case)
    exact = case.truth().gradients
    assert raw.status.tolist() == [[0]]
    assert vs.distance(raw_gradients, exact) <= 1e-11 * max(1, vs.size(exact))
    flat, flat_gradients = vs.solved(replace(case, standardize=True))
    assert flat.status.tolist() == [[0]]
    assert not flat_gradients.any()


@LOSSES
@pytest.mark.parametrize("noise", [0.0, 1e-8])
@pytest.mark.parametrize("level", [0.0, 3.7, -1e4])
def test_constant_columns_are_zero_with_zero_gradient(loss, noise, level):
    """A column whose deviation is ≤ 1e-6·|mean| is 0 in both parts, whatever its held-out entries."""
    case = make(21, cells=[15, 11], d=4, folds=2, loss=loss, standardize=True)
    rng = np.random.default_rng(22)
    scores = case.scores.copy()
    scores[:, 2] = level * (1 + noise * rng.standard_normal(len(scores)))
    constant = replace(case, scores=scores)
    _, payoff, gradients = vs.assert_matches(constant)
    assert not gradients[:, :, 2].any()
    assert not payoff.params[..., 2].any()
    without = replace(case, scores=np.delete(scores, 2, axis=1))
    shorter = vs.step(without, vs.leaf(without))
    assert torch.allclose(shorter.per_problem, payoff.per_problem, rtol=1e-12, atol=0)


def test_column_just_above_the_constant_threshold_counts():
    case = make(23, cells=[15], d=3, standardize=True)
    scores = case.scores.copy()
    scores[:, 1] = 5 * (1 + 1e-5 * scores[:, 1])
    _, payoff, gradients = vs.assert_matches(replace(case, scores=scores), rtol=1e-6)
    assert gradients[:, :, 1].any()
    assert payoff.params[..., 1].any()


@LOSSES
@STANDARDIZE
def test_held_out_rows_beyond_the_margin_give_nothing_and_converge(loss, standardize):
    """V = 0 must return u = 0, CONVERGED: value and gradient exactly 0."""
    rng = np.random.default_rng(24)
    labels = np.tile([1.0, -1.0], 20)
    mask = (np.arange(40) < 28)[None]
    scores = labels[:, None] * np.where(mask.T, 1.0, 50.0) + 0.1 * rng.standard_normal((40, 3))
    case = zoo.Case(scores, labels, mask, np.zeros(40, np.int64), 1, loss=loss, l2=1e-3, standardize=standardize)
    payoff, gradients = vs.solved(case)
    assert payoff.status.tolist() == [[0]]
    assert float(payoff.value) == 0
    assert not gradients.any()
    assert float(payoff.bounds.gradient_bound) <= 1e-6


@LOSSES
@PAYOFFS
@STANDARDIZE
def test_problem_without_held_out_rows(loss, payoff, standardize):
    case = make(25, cells=[10, 12], d=3, folds=2, loss=loss, payoff=payoff, standardize=standardize)
    held_out = ~case.train_masks & (case.groups != 1)
    case = replace(case, held_out_masks=held_out)
    _, result, gradients = vs.assert_matches(case)
    assert result.status[:, 1].tolist() == [0, 0]
    assert not result.per_problem[:, 1].any()
    assert not gradients[:, case.groups == 1].any()


@pytest.mark.parametrize("loss", ["squared_hinge", "huberised_hinge"])
def test_rows_on_a_kink_give_one_of_the_one_sided_gradients(loss):
    rng = np.random.default_rng(26)
    case = zoo.random_case(rng, cells=[20, 16], d=5, loss=loss)
    for planted in (zoo.plant_held_out_kink(rng, case), zoo.plant_train_kink(rng, case)):
        truth = planted.truth()
        payoff, gradients = vs.solved(planted)
        assert np.isfinite(gradients).all()
        assert vs.distance(payoff.per_problem.detach(), truth.per_problem) <= 1e-12
        error = vs.distance(gradients, truth.gradients)
        assert error <= float(payoff.bounds.gradient_bound.sum())
        assert (payoff.bounds.uncertain_rows >= 1).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("held_out", [False, True])
@STANDARDIZE
def test_nonfinite_scores_spoil_their_own_problems_only(bad, held_out, standardize):
    case = make(31, cells=[10, 12, 9], d=4, folds=2, standardize=standardize)
    truth = case.truth()
    scores = case.scores.copy()
    problem = truth.problems[0, 1]
    scores[(problem.held_rows if held_out else problem.train_rows)[0], 2] = bad
    spoiled = replace(case, scores=scores)
    payoff, gradients = vs.solved(spoiled)
    assert payoff.status[:, 1].tolist() == [Status.NONFINITE] * 2
    assert torch.isnan(payoff.per_problem[:, 1]).all()
    assert np.isnan(gradients[:, case.groups == 1]).any(axis=(1, 2)).all()
    assert torch.isnan(payoff.params[:, 1]).all()
    assert torch.isnan(payoff.bounds.gradient_bound[:, 1]).all()
    clean, clean_gradients = vs.solved(case)
    keep = [0, 2]
    assert (payoff.status[:, keep] == 0).all()
    assert torch.allclose(payoff.per_problem[:, keep], clean.per_problem[:, keep], rtol=1e-13, atol=0)
    rows = case.groups != 1
    assert vs.distance(gradients[:, rows], clean_gradients[:, rows]) <= 1e-11 * vs.size(clean_gradients)


def test_a_problem_left_out_of_the_sum_sends_no_nan_back():
    """Dropping problems by their status keeps the gradient finite: a zero cotangent gives zero rows."""
    case = make(35, cells=[10, 12], d=4, folds=2)
    scores = case.scores.copy()
    scores[case.groups == 1] = np.nan
    leaf = vs.leaf(replace(case, scores=scores))
    payoff = vs.step(case, leaf)
    payoff.per_problem[payoff.status == 0].sum().backward()
    assert leaf.grad.isfinite().all()
    assert leaf.grad[case.groups == 0].any()


def test_nonfinite_ignored_row_does_no_harm():
    case = make(32, cells=[10], d=4, ignored=2, standardize=True)
    scores = case.scores.copy()
    scores[case.groups < 0] = np.nan
    payoff, gradients = vs.solved(replace(case, scores=scores))
    assert payoff.status.tolist() == [[0]]
    assert np.isfinite(gradients).all()


@pytest.mark.parametrize("scale", [1e-170, 1e160])
def test_standardised_scores_of_any_scale_are_the_same_problem(scale):
    case = make(29, cells=[12], d=3, standardize=True)
    payoff, _ = vs.solved(case)
    scaled, _ = vs.solved(replace(case, scores=case.scores * scale))
    assert torch.allclose(payoff.per_problem, scaled.per_problem, rtol=1e-9, atol=0)
    assert torch.allclose(payoff.params, scaled.params, rtol=1e-9, atol=1e-12)


def test_a_payoff_of_nothing_is_plus_zero():
    payoff, _ = vs.solved(make(19, cells=[1, 1], d=2))
    assert not torch.signbit(payoff.per_problem).any()
