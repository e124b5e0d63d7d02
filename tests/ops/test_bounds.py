"""Equation (9) for adjoints that a solver left unfinished: a few CG steps, truncated series, noise, nothing at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo

from amu_fast.linalg import ConjugateGradient, MatrixOperator
from amu_fast.ops import auditor_chunk, losses
from amu_fast.ops.bounds import HeldOut, problem_bounds
from amu_fast.ops.newton import Factor, Problems, minimise

KINDS = {"logistic": losses.LOGISTIC, "squared_hinge": losses.SQUARED_HINGE, "huberised_hinge": losses.HUBERISED_HINGE}
PAYOFFS = {"hinge": losses.HINGE_PAYOFF, "logistic": losses.LOGISTIC_PAYOFF}


def cg_steps(count):
    def solve(h, v, generator):
        return ConjugateGradient(rtol=0.0, max_steps=count).solve(MatrixOperator(h), v).value

    return solve


def neumann_terms(count):
    def solve(h, v, generator):
        step = 1 / torch.linalg.matrix_norm(h, 2)[:, None]
        u = step * v
        for _ in range(count - 1):
            u = u + step * (v - (h @ u.unsqueeze(-1)).squeeze(-1))
        return u

    return solve


def noisy(size):
    def solve(h, v, generator):
        exact = torch.linalg.solve(h, v)
        return exact * (1 + size * torch.randn(v.shape, generator=generator, dtype=v.dtype))

    return solve


SOLVERS = {
    "2 CG steps": cg_steps(2),
    "5 CG steps": cg_steps(5),
    "5 Neumann terms": neumann_terms(5),
    "noise 1e-3": noisy(1e-3),
    "noise 1e-8": noisy(1e-8),
    "none": lambda h, v, generator: torch.zeros_like(v),
}


def of_oracle(problem, case):
    """An oracle's problem as a batch of one, training rows first."""
    rows = torch.tensor(np.concatenate([problem.x, problem.h]).astype(np.float64))[None]
    y = torch.tensor(np.concatenate([problem.y, problem.z]).astype(np.float64))[None]
    trains = torch.arange(rows.shape[1]) < len(problem.y)
    t = trains.double()[None] / len(problem.y)
    weight = (~trains).double()[None] / float(problem.normaliser)
    problems = Problems(rows, y, t, KINDS[case.loss], case.l2, case.width)
    return problems, HeldOut(weight, PAYOFFS[case.payoff])


@pytest.mark.parametrize("name", SOLVERS)
def test_bounds_hold_for_inexact_adjoints(name):
    rng, generator = np.random.default_rng(50), torch.Generator().manual_seed(0)
    cases = [c for c in zoo.grid_zoo(rng)[::4] + zoo.hard_zoo(rng, 80) if not c.standardize]
    violated, tried = [], 0
    for case in cases:
        truth = case.truth()
        for (k, _), problem in truth.problems.items():
            problems, held_out = of_oracle(problem, case)
            optima = minimise(problems, 1e-6, 200)
            m = problems.margins(optima.w)
            factor = Factor.at(problems, m)
            h = torch.stack([factor.matvec(e.expand_as(optima.w)) for e in torch.eye(optima.w.shape[-1]).double()], -1)
            u = SOLVERS[name](h, held_out.cotangent(problems, m), generator)
            bounds = problem_bounds(problems, held_out, optima.w, u)
            alpha, beta = auditor_chunk._coefficients(problems, held_out, m, u, auditor_chunk.FULL)
            rows = -(alpha.mT * u + beta.mT * optima.w)[:, :-1].numpy()
            exact = truth.gradients[k][np.concatenate([problem.train_rows, problem.held_rows])]
            errors = np.linalg.norm((rows - exact).astype(np.float64), axis=-1)
            tried += 1
            if (errors > bounds.rows[0].numpy()).any():
                violated.append(f"{case}: {errors.max():.2e}")
            if np.linalg.norm((u[0].numpy() - problem.u).astype(np.float64)) > float(bounds.adjoint):
                violated.append(f"{case}: adjoint")
    assert tried >= 100
    assert not violated, violated[:3]
