"""The gradient by roads that know nothing of the implicit function theorem."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import versus_oracle as vs
import zoo

EVERY = pytest.mark.parametrize(
    ("loss", "payoff", "standardize"),
    [(loss, payoff, standardize) for loss in zoo.LOSSES for payoff in zoo.PAYOFFS for standardize in (False, True)],
)


def smooth_case(seed, **options):
    """A random case none of whose rows is near a kink, so that finite differences see one smooth piece."""
    rng = np.random.default_rng(seed)
    while True:
        case = zoo.random_case(rng, **options)
        if not case.truth().near_kink(2e-3):
            return case


@EVERY
def test_gradcheck(loss, payoff, standardize):
    """Central differences of the re-solved step, every entry of the Jacobian of `per_problem`."""
    options = {"loss": loss, "payoff": payoff, "standardize": standardize, "l2": 0.05}
    case = smooth_case(50, cells=[3, 4], d=2, folds=2, ignored=1, **options)
    assert torch.autograd.gradcheck(
        lambda scores: vs.step(case, scores).per_problem, vs.leaf(case), eps=1e-5, atol=1e-8, rtol=1e-6
    )


@EVERY
def test_gradcheck_with_few_rows_and_many_scores(loss, payoff, standardize):
    options = {"loss": loss, "payoff": payoff, "standardize": standardize, "l2": 0.05}
    case = smooth_case(51, cells=[3], d=5, **options)
    assert torch.autograd.gradcheck(
        lambda scores: vs.step(case, scores).per_problem, vs.leaf(case), eps=1e-5, atol=1e-8, rtol=1e-6
    )


def loss_of(case, m):
    """ℓ(m) as torch operations."""
    if case.loss == "logistic":
        return torch.nn.functional.softplus(-m)
    gap = (1 - m).clamp(min=0)
    if case.loss == "squared_hinge":
        return gap**2
    return torch.where(m <= 1 - case.width, 1 - m - case.width / 2, gap**2 / (2 * case.width))


def parts_of(case, scores):
    """Rows and labels of both parts of a one-problem case, standardised with autograd if asked."""
    mask = torch.tensor(case.train_masks[0])
    labels = torch.tensor(case.labels)
    train, held = scores[mask], scores[~mask]
    if case.standardize:
        mean, deviation = train.mean(0), train.std(0, correction=0)
        train, held = (train - mean) / deviation, (held - mean) / deviation
    parts = [torch.cat([part, part.new_ones(len(part), 1)], dim=1) for part in (train, held)]
    return parts[0], labels[mask], parts[1], labels[~mask]


def payoff_of(case, held, labels, w):
    """Equation (5) in torch."""
    m = labels * (held @ w)
    share = (1 - m).clamp(min=0) if case.payoff == "hinge" else torch.nn.functional.softplus(-m)
    return -share.sum() / len(case.labels)


@EVERY
def test_unrolled_solver(loss, payoff, standardize):
    """Autograd through every step of accelerated gradient descent from w = 0."""
    case = smooth_case(52, cells=[10], d=3, loss=loss, payoff=payoff, standardize=standardize, l2=0.2)
    scores = vs.leaf(case)
    x, y, held, held_labels = parts_of(case, scores)
    strongest = float(torch.linalg.matrix_norm(x.detach(), 2)) ** 2 / len(x)
    curvature = {"logistic": 0.25, "squared_hinge": 2.0, "huberised_hinge": 1 / case.width}[loss] * strongest
    rate, kappa = 1 / (curvature + case.l2), (curvature + case.l2) / case.l2
    momentum = (kappa**0.5 - 1) / (kappa**0.5 + 1)
    w = previous = torch.zeros(4, dtype=torch.float64)
    for _ in range(400):
        ahead = w + momentum * (w - previous)
        if not ahead.requires_grad:
            ahead.requires_grad_()
        g = loss_of(case, y * (x @ ahead)).mean() + case.l2 / 2 * (ahead @ ahead)
        (slope,) = torch.autograd.grad(g, ahead, create_graph=True)
        w, previous = ahead - rate * slope, w
    (unrolled,) = torch.autograd.grad(payoff_of(case, held, held_labels, w), scores)
    ours = vs.leaf(case)
    vs.step(case, ours).value.backward()
    assert torch.linalg.norm(ours.grad - unrolled) <= 1e-8 * torch.linalg.norm(unrolled)


def cvxpy_loss(cp, case, m, n):
    """Σ ℓ(m) as a cone program; the Huberised hinge is the infimal convolution of a square and a hinge."""
    if case.loss == "logistic":
        return cp.sum(cp.logistic(-m)), []
    if case.loss == "squared_hinge":
        return cp.sum_squares(cp.pos(1 - m)), []
    smooth = cp.Variable(n)
    return cp.sum_squares(smooth) / (2 * case.width) + cp.sum(cp.pos(1 - m - smooth)), [smooth >= 0]


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("loss", zoo.LOSSES)
@pytest.mark.filterwarnings("ignore")
def test_cvxpylayers(loss, standardize):
    """The cone program's own derivative; its optimum is exact to 1e-12, its adjoint (LSMR) to about 3e-6."""
    layers = pytest.importorskip("cvxpylayers.torch", reason="needs the test extra cvxpylayers")
    cp = pytest.importorskip("cvxpy", reason="needs the test extra cvxpylayers")
    case = smooth_case(53, cells=[8], d=3, loss=loss, payoff="logistic", standardize=standardize, l2=0.1)
    scores = vs.leaf(case)
    x, y, held, held_labels = parts_of(case, scores)
    n, p = x.shape
    rows, w = cp.Parameter((n, p)), cp.Variable(p)
    total, constraints = cvxpy_loss(cp, case, cp.multiply(y.numpy(), rows @ w), n)
    problem = cp.Problem(cp.Minimize(total / n + case.l2 / 2 * cp.sum_squares(w)), constraints)
    layer = layers.CvxpyLayer(problem, parameters=[rows], variables=[w])
    (optimum,) = layer(x, solver_args={"solve_method": "SCS", "eps": 1e-13, "max_iters": 200_000})
    (conic,) = torch.autograd.grad(payoff_of(case, held, held_labels, optimum), scores)
    ours = vs.leaf(case)
    payoff = vs.step(case, ours)
    payoff.value.backward()
    assert torch.linalg.norm(payoff.params[0, 0] - optimum.detach()) <= 1e-10
    assert torch.linalg.norm(ours.grad - conic) <= 1e-5 * torch.linalg.norm(conic)
