"""P1 by cvxpylayers: the released form, a linear program built again for every problem, and the same problem as ours.

Di et al.'s published attack is a plain hinge with weight 0 on its l1 term. Its optimum is not unique where the rows
are separable, so it answers another question and is timed outside the gate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amu_fast.bench.auditor_problem import AuditorProblem
from amu_fast.bench.auditor_rows import RowCall, hinge_payoff, with_autograd

#: SCS's tolerances from loose to tight; the first that passes the gate is the one that is timed.
TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
MAX_ITERS, MOST_PROBLEMS = 100_000, 300


def released(problem: AuditorProblem) -> RowCall:
    """Build, canonicalise and solve the linear program for every problem, with SCS at its defaults."""
    part = problem.first(problem.case.peer_groups)

    def payoff(x: Tensor, y: Tensor, held: Tensor, z: Tensor) -> Tensor:
        parts = []
        for rows, labels, held_rows, held_labels in zip(x, y, held, z, strict=True):
            layer = _layer(rows.shape[0], rows.shape[1], None)
            w, b = layer(labels[:, None] * rows, labels)
            attack = torch.cat([w, b])[None]
            parts.append(hinge_payoff(attack, held_rows[None], held_labels[None], part.total))
        return torch.stack(parts).sum()

    return RowCall(part, with_autograd(payoff))


def rebuilt(problem: AuditorProblem) -> RowCall:
    """The same problem as ours, the layer built again for every problem, at SCS's default tolerance."""
    part = problem.first(problem.case.peer_groups)

    def payoff(x: Tensor, y: Tensor, held: Tensor, z: Tensor) -> Tensor:
        parts = []
        for i in range(len(x)):
            layer = _layer(x.shape[1], x.shape[2], problem.case.l2)
            w, b = layer(y[i][:, None] * x[i], y[i])
            parts.append(hinge_payoff(torch.cat([w, b])[None], held[i : i + 1], z[i : i + 1], part.total))
        return torch.stack(parts).sum()

    return RowCall(part, with_autograd(payoff))


def batched(problem: AuditorProblem) -> RowCall:
    """The same problem as ours, built once with parameters, all problems in one call; few of very many.

    SCS's tolerance is the loosest that passes the gate.
    """
    few = problem.first(problem.case.peer_groups)
    part = problem if len(problem.train) <= MOST_PROBLEMS else few
    layer = _layer(part.train.shape[1], problem.case.columns, problem.case.l2)
    for eps in TOLERANCES:
        trial, call = (RowCall(p, with_autograd(_once(layer, p.total, eps))) for p in (few, part))
        if trial.judge(problem).passed and call.judge(problem).passed:
            break
    return call


def _once(layer: Any, total: float, eps: float) -> Any:
    # diffcp's default derivative (mode "lsqr") stops early: 3e-4 off however tight SCS is.
    arguments = {"eps": eps, "max_iters": MAX_ITERS, "mode": "lsmr"}

    def payoff(x: Tensor, y: Tensor, held: Tensor, z: Tensor) -> Tensor:
        w, b = layer(y[..., None] * x, y, solver_args=arguments)
        return hinge_payoff(torch.cat([w, b], -1), held, z, total)

    return payoff


def _layer(n: int, d: int, l2: float | None) -> Any:
    """Mean hinge without a regulariser (l2 None), or equation (2) with the squared hinge; rows carry their labels."""
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    rows, labels = cp.Parameter((n, d)), cp.Parameter(n)
    w, b = cp.Variable(d), cp.Variable(1)
    margins = rows @ w + cp.multiply(labels, b)
    slack = cp.pos(1 - margins)
    if l2 is None:
        objective = cp.sum(slack) / n + 0.0 * cp.norm1(w)
    else:
        objective = cp.sum_squares(slack) / n + l2 / 2 * (cp.sum_squares(w) + cp.sum_squares(b))
    return CvxpyLayer(cp.Problem(cp.Minimize(objective)), parameters=[rows, labels], variables=[w, b])
