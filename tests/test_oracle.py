"""The oracle checked against itself: finite differences, scikit-learn, 40 digits, and its own bounds."""

from __future__ import annotations

from dataclasses import replace

import mpmath
import numpy as np
import oracle
import oracle_bounds
import pytest
import zoo

LOSSES = pytest.mark.parametrize("loss", zoo.LOSSES)


def small_case(seed, **options):
    rng = np.random.default_rng(seed)
    defaults = {"cells": [9, 6], "d": 3, "folds": 2, "l2": 0.02, "ignored": 2}
    return zoo.random_case(rng, **(defaults | options))


def numeric_gradient(case, step=1e-5):
    """Central differences of the re-solved problem (1), four points, in the oracle's wide arithmetic."""
    shape = case.scores.shape
    out = np.zeros((len(case.train_masks), *shape))
    for index in np.ndindex(shape):
        values = []
        for factor in (-2, -1, 1, 2):
            moved = case.scores.astype(np.longdouble)
            moved[index] += factor * np.longdouble(step)
            values.append(replace(case, scores=moved).truth().per_problem.sum(axis=1))
        out[(slice(None), *index)] = (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * step)
    return out


@LOSSES
@pytest.mark.parametrize("payoff", zoo.PAYOFFS)
@pytest.mark.parametrize("standardize", [False, True])
def test_gradient_equals_finite_differences_of_the_resolved_problem(loss, payoff, standardize):
    case = small_case(1, cells=[7], loss=loss, payoff=payoff, standardize=standardize)
    truth = case.truth()
    assert not truth.near_kink(1e-3)
    error = np.abs(truth.gradients - numeric_gradient(case)).max()
    assert error <= 1e-9 * np.abs(truth.gradients).max()


@LOSSES
def test_optimum_is_stationary_and_no_neighbour_is_lower(loss):
    truth = small_case(2, loss=loss, l2=1e-4, d=12).truth()
    rng = np.random.default_rng(0)
    for p in truth.problems.values():
        f = p.follower

        def g(w, p=p, f=f):
            return f.value(p.y * (p.x @ w)).mean() + f.l2 / 2 * (w @ w)

        scale = np.linalg.norm(p.x.astype(float), axis=1).mean()
        assert np.linalg.norm(f.gradient(p.x, p.y, p.w).astype(float)) <= 1e-17 * scale * max(
            1, 1e3 * (not oracle.WIDE)
        )
        directions = rng.standard_normal((20, len(p.w)))
        assert all(g(p.w + 1e-4 * step) > g(p.w) for step in directions)


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
@pytest.mark.parametrize(("n", "d"), [(40, 5), (26, 64), (300, 20)])
@pytest.mark.parametrize("loss", ["logistic", "squared_hinge"])
def test_optimum_equals_scikit_learn(loss, n, d, l2):
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    case = zoo.random_case(np.random.default_rng(n + d), cells=[n // 2], d=d, loss=loss, l2=l2)
    p = case.truth().problems[0, 0]
    x, y, strength = p.x.astype(float), p.y.astype(float), 1 / (len(p.y) * l2)
    if loss == "squared_hinge":
        twin = LinearSVC(C=strength, loss="squared_hinge", dual=False, tol=1e-10, intercept_scaling=1, max_iter=10**5)
        twin.fit(x[:, :-1], y)
        w = np.append(twin.coef_[0], twin.intercept_)
    else:
        twin = LogisticRegression(C=strength, fit_intercept=False, solver="newton-cholesky", tol=1e-12)
        w = twin.fit(x, y).coef_[0]
    assert np.abs(w - p.w.astype(float)).max() <= 1e-6


@LOSSES
def test_many_digits_agree(loss):
    """Optimum, adjoint and gradient rows of a tiny problem in 40-digit arithmetic."""
    case = small_case(3, cells=[4], d=2, folds=1, loss=loss, payoff="logistic", ignored=0)
    p = case.truth().problems[0, 0]
    assert p.kink_distance() > 1e-6
    with mpmath.workdps(40):
        train, held = (mpmath.matrix(part.astype(float).tolist()) for part in (p.x, p.h))
        w, u = mp_solution(p, train, held)
        for i in range(len(p.y)):
            x = train[i, :]
            m, y = p.y[i] * mp_dot(x, w), mpmath.mpf(float(p.y[i]))
            slope, curve = mp_losses(p.follower, m)
            row = [-(y * slope * u[j] + curve * mp_dot(x, u) * w[j]) / len(p.y) for j in range(2)]
            ours = oracle.gradients(p)[0][i]
            tolerance = (1e-16 if oracle.WIDE else 1e-12) * np.linalg.norm(ours.astype(float))
            assert max(abs(float(row[j] - mpmath.mpf(str(ours[j])))) for j in range(2)) <= tolerance


def mp_dot(x, w):
    return mpmath.fsum(x[j] * w[j] for j in range(len(w)))


def mp_losses(follower, m):
    if follower.loss == "logistic":
        s = 1 / (1 + mpmath.exp(m))
        return -s, s * (1 - s)
    gap = max(mpmath.mpf(0), 1 - m)
    if follower.loss == "squared_hinge":
        return -2 * gap, mpmath.mpf(2 * (m < 1))
    width = mpmath.mpf(follower.width)
    return (mpmath.mpf(-1), mpmath.mpf(0)) if m <= 1 - width else (-gap / width, (m < 1) / width)


def mp_solution(p, train, held):
    """Newton's method from the oracle's optimum, then the adjoint; logistic payoff."""
    n, size = len(p.y), len(p.w)
    w = mpmath.matrix([str(value) for value in p.w])
    for _ in range(4):
        gradient = mpmath.mpf(p.follower.l2) * w
        hessian = mpmath.mpf(p.follower.l2) * mpmath.eye(size)
        for i in range(n):
            x, y = train[i, :].T, mpmath.mpf(float(p.y[i]))
            slope, curve = mp_losses(p.follower, y * mp_dot(x, w))
            gradient += y * slope * x / n
            hessian += curve * x * x.T / n
        w -= mpmath.lu_solve(hessian, gradient)
    v = mpmath.zeros(size, 1)
    for j in range(len(p.z)):
        z = mpmath.mpf(float(p.z[j]))
        v += z / (1 + mpmath.exp(z * mp_dot(held[j, :], w))) * held[j, :].T / p.normaliser
    return w, mpmath.lu_solve(hessian, v)


def test_skipped_and_absent_rows_give_nothing():
    case = small_case(4, cells=[8, 1], ignored=3)
    truth = case.truth()
    assert truth.skipped.tolist() == [[False, True]] * 2
    assert not truth.per_problem[:, 1].any()
    assert not truth.gradient[case.groups != 0].any()


@LOSSES
def test_planted_rows_sit_on_the_kink(loss):
    rng = np.random.default_rng(5)
    case = zoo.random_case(rng, cells=[12, 12], d=6, loss=loss)
    planted = [
        zoo.plant_held_out_kink(rng, case),
        zoo.plant_held_out_kink(rng, replace(case, standardize=True)),
    ]
    planted += [zoo.plant_train_kink(rng, case)] if loss != "logistic" else []
    for each in planted:
        assert all(p.kink_distance() <= 1e-14 for p in each.truth().problems.values())


def disturbed(rng, problem, size, adjoint_size):
    """float64 iterates at about these relative distances from w* and u*, and the gradient made of them."""

    def move(value, relative):
        noise = rng.standard_normal(len(value))
        return (value + relative * np.linalg.norm(value.astype(float)) * noise / np.linalg.norm(noise)).astype(float)

    w, u = move(problem.w, size), move(problem.u, adjoint_size)
    parts = {name: getattr(problem, name).astype(float) for name in ("x", "y", "h", "z")}
    sd = None if problem.sd is None else problem.sd.astype(float)
    return w, u, np.concatenate(oracle.gradients(replace(problem, w=w, u=u, sd=sd, **parts)))


def test_bounds_hold_for_disturbed_iterates():
    """Equation (9), this file's own copy of it, holds for inexact optima and adjoints, kinks included."""
    rng = np.random.default_rng(6)
    cases = zoo.grid_zoo(rng)[::3] + zoo.hard_zoo(rng, 60)
    failures, checked = [], 0
    for case in cases:
        for problem in case.truth().problems.values():
            exact = np.concatenate(oracle.gradients(problem))
            for size, adjoint_size in ((1e-2, 1e-12), (1e-4, 1e-1), (1e-7, 1e-7), (1e-12, 1e-12), (0, 0)):
                w, u, gradient = disturbed(rng, problem, size, adjoint_size)
                for factor in (False, True):
                    b = oracle_bounds.bounds(problem, w, u, factor=factor)
                    errors = [np.linalg.norm((a - e).astype(float)) for a, e in
                              ((w, problem.w), (u, problem.u), (gradient, exact))]  # fmt: skip
                    checked += 1
                    if not all(e <= bound for e, bound in zip(errors, (b.param, b.adjoint, b.gradient), strict=True)):
                        failures.append((str(case), size, factor, errors, b.param, b.adjoint, b.gradient))
    assert checked >= 1000
    assert not failures, failures[:3]


def test_bounds_are_not_vacuous():
    """At the optimum what is left is rounding: a relative 1e-4 or less in 9 of 10 problems of the grid."""
    relative = []
    for case in zoo.grid_zoo(np.random.default_rng(7), centred=True):
        (problem,) = case.truth().problems.values()
        exact = np.linalg.norm(np.concatenate(oracle.gradients(problem)).astype(float))
        relative.append(oracle_bounds.bounds(problem, problem.w, problem.u).gradient <= 1e-4 * exact)
    assert np.mean(relative) >= 0.9
