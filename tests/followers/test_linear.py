"""Linear followers: optima against scikit-learn and the dense oracle, and the problems that break solvers."""

from __future__ import annotations

import itertools

import numpy as np
import oracle
import pytest
import torch
import zoo

from amu_fast.errors import DataError
from amu_fast.followers import HuberisedHinge, Logistic, SquaredHinge

KINDS = {"logistic": Logistic, "squared_hinge": SquaredHinge, "huberised_hinge": HuberisedHinge}
LOSSES = pytest.mark.parametrize("loss", zoo.LOSSES)


def batch(rng, problems, n, d, signal):
    """Rows (problems, n, d) and balanced labels; half of the problems correlated and off-centre."""
    labels = np.tile(np.resize([1.0, -1.0], n), (problems, 1))
    scores = rng.standard_normal((problems, n, d)) + signal * labels[..., None] / np.sqrt(d)
    scores[::2] = scores[::2] @ (np.eye(d) + 0.5 * rng.standard_normal((d, d)) / np.sqrt(d)) + 1.0
    return torch.tensor(scores), torch.tensor(labels)


def true_gradient_norms(loss, l2, scores, labels, params):
    """‖∇g(ŵ)‖ by equation (3) and what it may be: max(rtol·‖∇g(0)‖, 32·2⁻⁵³·mean ‖x̃‖) at rtol 1e-10."""
    follower = oracle.Follower(loss, l2)
    norms, limits = [], []
    for x, y, w in zip(scores.numpy(), labels.numpy(), params.numpy(), strict=True):
        rows = oracle.with_intercept(x)
        norms.append(np.linalg.norm(follower.gradient(rows, y, w)))
        start = np.linalg.norm(follower.gradient(rows, y, 0 * w))
        limits.append(max(1e-10 * start, 32 * 2.0**-53 * np.linalg.norm(rows, axis=1).mean()))
    return np.array(norms), np.array(limits)


@LOSSES
@pytest.mark.parametrize(("n", "d"), [(10, 1), (14, 100), (26, 11), (30, 29), (30, 30), (300, 40)])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_optimum_equals_the_oracle(loss, n, d, l2):
    """Few rows go through the n-dimensional dual, many through the primal: one answer."""
    scores, labels = batch(np.random.default_rng(n + d), 4, n, d, 1.0)
    solution = KINDS[loss](l2=l2, rtol=1e-14).fit(scores, labels)
    solution.raise_for_status()
    assert solution.value.shape == (4, d + 1)
    for x, y, w in zip(scores.numpy(), labels.numpy(), solution.value.numpy(), strict=True):
        exact = oracle.optimum(oracle.Follower(loss, l2), oracle.with_intercept(x), y).astype(float)
        assert np.linalg.norm(w - exact) <= 1e-10 * np.linalg.norm(exact)


@pytest.mark.parametrize("l2", [1e-1, 1e-2, 1e-4])
@pytest.mark.parametrize(("n", "d"), [(14, 101), (26, 11), (350, 20)])
def test_squared_hinge_is_linear_svc(n, d, l2):
    from sklearn.svm import LinearSVC

    scores, labels = batch(np.random.default_rng(n), 2, n, d, 1.0)
    ours = SquaredHinge(l2=l2).fit(scores, labels).value.numpy()
    for x, y, w in zip(scores.numpy(), labels.numpy(), ours, strict=True):
        options = {"loss": "squared_hinge", "intercept_scaling": 1, "dual": False, "tol": 1e-10, "max_iter": 10**5}
        svc = LinearSVC(C=1 / (n * l2), **options).fit(x, y)
        assert np.abs(w - np.append(svc.coef_[0], svc.intercept_)).max() <= 1e-6


@pytest.mark.parametrize("l2", [1e-1, 1e-2, 1e-4])
@pytest.mark.parametrize(("n", "d"), [(14, 101), (26, 11), (350, 20)])
def test_logistic_is_logistic_regression_on_a_column_of_ones(n, d, l2):
    from sklearn.linear_model import LogisticRegression

    scores, labels = batch(np.random.default_rng(n), 2, n, d, 1.0)
    ours = Logistic(l2=l2).fit(scores, labels).value.numpy()
    for x, y, w in zip(scores.numpy(), labels.numpy(), ours, strict=True):
        twin = LogisticRegression(C=1 / (n * l2), fit_intercept=False, solver="newton-cholesky", tol=1e-12)
        assert np.abs(w - twin.fit(oracle.with_intercept(x), y).coef_[0]).max() <= 1e-6


def test_huberised_hinge_tends_to_the_hinge():
    """Its limit is scikit-learn's hinge loss: the objective of the limit is the liblinear dual optimum."""
    from sklearn.svm import LinearSVC

    scores, labels = batch(np.random.default_rng(3), 1, 40, 3, 1.0)
    x, y = scores[0].numpy(), labels[0].numpy()
    svc = LinearSVC(C=1 / (40 * 1e-1), loss="hinge", dual=True, intercept_scaling=1, tol=1e-8, max_iter=10**6)
    hinge = np.append(svc.fit(x, y).coef_[0], svc.intercept_)
    errors = [
        np.linalg.norm(HuberisedHinge(l2=1e-1, width=width).fit(scores, labels).value[0].numpy() - hinge)
        for width in (1.0, 0.1, 0.001)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] <= 2e-3


SIZES = ((14, 101), (26, 11), (60, 24), (140, 4))


@LOSSES
def test_no_failure_in_two_thousand_problems(loss):
    """Every problem CONVERGED, by the true residual, down to l2 = 1e-4, with no, some and full separation."""
    rng = np.random.default_rng(4)
    problems = 0
    for (n, d), l2, signal in itertools.product(SIZES, (1e-4, 1e-3, 1e-2), (0.0, 1.0, 5.0)):
        count = 18
        scores, labels = batch(rng, count, n, d, signal)
        solution = KINDS[loss](l2=l2).fit(scores, labels)
        norms, limits = true_gradient_norms(loss, l2, scores, labels, solution.value)
        where = f"n={n} d={d} l2={l2:g} signal={signal}"
        assert (solution.status == 0).all(), f"{where}: {solution.status.unique(return_counts=True)}"
        assert (norms <= 2 * limits).all(), f"{where}: {norms.max():.2e} > {limits.min():.2e}"
        problems += count
    assert problems * len(zoo.LOSSES) >= 1900


@pytest.mark.slow
@LOSSES
@pytest.mark.parametrize("seed", range(3))
def test_no_failure_in_many_more_problems(loss, seed):
    rng = np.random.default_rng(100 + seed)
    sizes = (*SIZES, (350, 64), (26, 300), (64, 63))
    for (n, d), l2, signal in itertools.product(sizes, (1e-4, 1e-3, 1e-2), (0.0, 1.0, 5.0, 20.0)):
        scores, labels = batch(rng, 100, n, d, signal)
        solution = KINDS[loss](l2=l2).fit(scores, labels)
        norms, limits = true_gradient_norms(loss, l2, scores, labels, solution.value)
        assert (solution.status == 0).all(), f"n={n} d={d} l2={l2:g} signal={signal}"
        assert (norms <= 2 * limits).all()


@LOSSES
@pytest.mark.parametrize("n", [8, 40])
def test_identical_rows_on_both_sides_give_zero(loss, n):
    half = torch.tensor(np.random.default_rng(5).standard_normal((n // 2, 6)))
    labels = torch.cat([torch.ones(n // 2), -torch.ones(n // 2)])
    solution = KINDS[loss](l2=1e-3).fit(torch.cat([half, half]), labels)
    assert int(solution.status) == 0
    assert float(solution.value.abs().max()) <= 1e-12


@LOSSES
def test_constant_and_duplicate_columns(loss):
    """A constant column is a second intercept, a duplicate shares its weight; l2 keeps the optimum unique."""
    scores, labels = batch(np.random.default_rng(6), 3, 30, 4, 1.0)
    scores = torch.cat([scores, scores[..., :1], torch.full((3, 30, 1), 2.0)], dim=-1)
    solution = KINDS[loss](l2=1e-4, rtol=1e-13).fit(scores, labels)
    assert (solution.status == 0).all()
    assert torch.allclose(solution.value[:, 0], solution.value[:, 4], atol=1e-9)
    assert torch.allclose(solution.value[:, 5], 2 * solution.value[:, 6], atol=1e-9)


@LOSSES
def test_one_class_is_still_a_convex_problem(loss):
    scores, _ = batch(np.random.default_rng(7), 2, 12, 3, 1.0)
    labels = torch.ones(2, 12)
    solution = KINDS[loss](l2=1e-2, rtol=1e-13).fit(scores, labels)
    for x, w in zip(scores.numpy(), solution.value.numpy(), strict=True):
        exact = oracle.optimum(oracle.Follower(loss, 1e-2), oracle.with_intercept(x), np.ones(12)).astype(float)
        assert np.linalg.norm(w - exact) <= 1e-9 * np.linalg.norm(exact)


@LOSSES
@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e4])
def test_scales(loss, scale):
    scores, labels = batch(np.random.default_rng(8), 3, 26, 5, 1.0)
    solution = KINDS[loss](l2=1e-3).fit(scores * scale, labels)
    norms, limits = true_gradient_norms(loss, 1e-3, scores * scale, labels, solution.value)
    assert (solution.status == 0).all()
    assert (norms <= 2 * limits).all()


@LOSSES
def test_batch_shapes_and_dtypes(loss):
    """Leading dimensions are free and independent; the arithmetic is float64 whatever comes in."""
    scores, labels = batch(np.random.default_rng(9), 6, 20, 3, 1.0)
    follower = KINDS[loss](rtol=1e-13)
    flat = follower.fit(scores, labels).value
    cube = follower.fit(scores.reshape(2, 3, 20, 3), labels.reshape(2, 3, 20)).value
    single = follower.fit(scores[4], labels[4].long()).value
    assert cube.shape == (2, 3, 4)
    assert single.shape == (4,)
    assert torch.allclose(cube.reshape(6, 4), flat, rtol=1e-11, atol=1e-12)
    assert torch.allclose(single, flat[4], rtol=1e-11, atol=1e-12)
    low = follower.fit(scores.float(), labels).value
    assert low.dtype == torch.float64
    assert torch.allclose(low, follower.fit(scores.float().double(), labels).value, rtol=1e-12, atol=1e-13)
    assert follower.fit(scores[:0], labels[:0]).value.shape == (0, 4)


@LOSSES
def test_nonfinite_rows_spoil_their_own_problem_only(loss):
    scores, labels = batch(np.random.default_rng(10), 3, 20, 3, 1.0)
    clean = KINDS[loss]().fit(scores, labels)
    scores[1, 5, 2] = float("nan")
    solution = KINDS[loss]().fit(scores, labels)
    assert solution.status.tolist() == [0, 3, 0]
    assert solution.value[1].isnan().all()
    assert torch.allclose(solution.value[[0, 2]], clean.value[[0, 2]], rtol=1e-12, atol=1e-13)


@LOSSES
def test_early_stop_is_reported(loss):
    scores, labels = batch(np.random.default_rng(11), 4, 60, 24, 1.0)
    solution = KINDS[loss](l2=1e-4, max_steps=1).fit(scores, labels)
    assert (solution.status == 1).all()
    norms, _ = true_gradient_norms(loss, 1e-4, scores, labels, solution.value)
    assert np.allclose(solution.residual_norms.numpy(), norms, rtol=1e-9)


@LOSSES
def test_objective_hessian_and_mixed_vjp(loss):
    """Equations (2), (4), (7) at points that are no optima."""
    rng = np.random.default_rng(12)
    scores, labels = batch(rng, 3, 15, 4, 1.0)
    w, u = (torch.tensor(rng.standard_normal((3, 5))) for _ in range(2))
    follower, reference = KINDS[loss](l2=0.03), oracle.Follower(loss, 0.03)
    value, operator = follower.objective(w, scores, labels), follower.hessian(w, scores, labels)
    rows = follower.mixed_vjp(w, u, scores, labels)[0]
    product = operator.matvec(u)
    for b in range(3):
        x, y = oracle.with_intercept(scores[b].numpy()), labels[b].numpy()
        m = y * (x @ w[b].numpy())
        assert np.isclose(float(value[b]), reference.value(m).mean() + 0.015 * float(w[b] @ w[b]), rtol=1e-13)
        assert np.allclose(product[b], reference.hessian(x, y, w[b].numpy()) @ u[b].numpy(), rtol=1e-12)
        exact = oracle.row_gradients(reference, x, y, w[b].numpy(), u[b].numpy())[:, :-1]
        assert np.allclose(rows[b], exact, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("scores", "labels", "value"),
    [
        (torch.zeros(4, 2), torch.tensor([1.0, -1.0, 0.0, 1.0]), "0"),
        (torch.zeros(4, 2), torch.ones(3), "3"),
        (torch.zeros(4, 2, dtype=torch.int64), torch.ones(4), "int64"),
        (torch.zeros(4), torch.ones(4), "4"),
        (torch.zeros(0, 2), torch.ones(0), "0"),
    ],
)
def test_bad_input_names_the_value(scores, labels, value):
    with pytest.raises(DataError, match=value):
        SquaredHinge().fit(scores, labels)
