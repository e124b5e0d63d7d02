"""The library's side of a case: the same batch through `auditor_step`, and distances to the oracle."""

from __future__ import annotations

import numpy as np
import torch

from amu_fast.audit import HingePayoff, LogisticPayoff, auditor_step
from amu_fast.followers import HuberisedHinge, Logistic, SquaredHinge


def follower(case, rtol=1e-14):
    """The case's follower, solved to rounding by default."""
    if case.loss == "huberised_hinge":
        return HuberisedHinge(l2=case.l2, width=case.width, rtol=rtol)
    return (Logistic if case.loss == "logistic" else SquaredHinge)(l2=case.l2, rtol=rtol)


def leaf(case, dtype=torch.float64):
    """The case's scores as a tensor that wants a gradient."""
    return torch.tensor(case.scores, dtype=dtype, requires_grad=True)


def arguments(case, rtol=1e-14):
    """Everything that `auditor_step` takes but scores and labels."""
    return {
        "follower": follower(case, rtol),
        "groups": torch.tensor(case.groups),
        "num_groups": case.num_groups,
        "train_masks": torch.tensor(case.train_masks),
        "held_out_masks": None if case.held_out_masks is None else torch.tensor(case.held_out_masks),
        "payoff": HingePayoff() if case.payoff == "hinge" else LogisticPayoff(),
        "standardize": case.standardize,
        "normaliser": case.normaliser,
    }


def step(case, scores, rtol=1e-14):
    """`auditor_step` on `scores` with everything else from the case."""
    return auditor_step(scores, torch.tensor(case.labels), **arguments(case, rtol))


def fold_gradients(payoff, scores):
    """Gradients (K, N, d) of the sum over groups, one fold at a time; groups never share a row."""
    return np.stack(
        [torch.autograd.grad(fold.sum(), scores, retain_graph=True)[0].double().numpy() for fold in payoff.per_problem]
    )


def problem_gradient(gradients, problem, k):
    """The rows of one problem, training rows first, from gradients (K, N, d)."""
    return np.concatenate([gradients[k, problem.train_rows], gradients[k, problem.held_rows]])


def distance(value, truth):
    """‖value − truth‖, subtracted in the truth's arithmetic."""
    return float(np.linalg.norm((np.asarray(value) - truth).astype(np.float64).ravel()))


def size(truth):
    """‖truth‖ as a float."""
    return float(np.linalg.norm(np.asarray(truth).astype(np.float64).ravel()))


def solved(case):
    """The payoff of a case, solved to rounding, and its gradients by fold: what most tests look at."""
    scores = leaf(case)
    payoff = step(case, scores)
    return payoff, fold_gradients(payoff, scores)


def assert_matches(case, rtol=1e-9, slack=1e-10, most_uncertain=0.05):
    """Value, optimum and gradient of every problem equal the oracle's.

    A problem with a row within `slack` of a kink has two one-sided gradients: left out, and named if many.
    """
    truth = case.truth()
    payoff, gradients = solved(case)
    uncertain = truth.near_kink(slack)
    assert len(uncertain) <= most_uncertain * max(20, len(truth.problems)), f"{case}: uncertain problems {uncertain}"
    for (k, g), problem in truth.problems.items():
        where = f"{case}, problem (fold {k}, group {g}), {len(problem.y)} training rows"
        assert int(payoff.status[k, g]) == 0, f"{where}: status {int(payoff.status[k, g])}"
        assert distance(payoff.params[k, g], problem.w) <= rtol * size(problem.w), where
        assert distance(payoff.per_problem[k, g].detach(), problem.payoff) <= rtol * size(problem.payoff), where
        if (k, g) in uncertain:
            continue
        exact = problem_gradient(truth.gradients, problem, k)
        error = distance(problem_gradient(gradients, problem, k), exact)
        assert error <= rtol * size(exact), f"{where}: gradient off by {error:.2e} of {size(exact):.2e}"
    untouched = np.ones(case.labels.shape, bool)
    for problem in truth.problems.values():
        untouched[problem.train_rows] = untouched[problem.held_rows] = False
    assert not gradients[:, untouched].any()
    assert (payoff.status.numpy() == 6).tolist() == truth.skipped.tolist()
    assert not payoff.per_problem.detach().numpy()[truth.skipped].any()
    return truth, payoff, gradients
