"""P1 by qpth: the dual of the squared hinge as a batch of quadratic programs, differentiated by qpth.

    min over s >= 0 of  (1/2) s^T (I + b A A^T) s - 1^T s,   rows of A: y_i [x_i, 1],   b = 2/(n l2),   w = b A^T s

s_i is the slack max(0, 1 - m_i), of order 1. qpth is given LARGE * s instead: its tolerances are absolute, and its
derivative clamps slacks and multipliers at 1e-8. n unknowns and n constraints; the primal would have n + p unknowns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from amu_fast.bench.auditor_problem import AuditorProblem
from amu_fast.bench.auditor_rows import RowCall, hinge_payoff, with_autograd
from amu_fast.bench.peers.eager import batch_size

#: The first of qpth's tolerances that passes the gate is timed.
TOLERANCES = (1e-4, 1e-6, 1e-8, 1e-10)
LARGE = 1e3
#: Training rows of all problems of a call; above, interior points of 140 unknowns and more take minutes.
MOST_ROWS = 4200
MAX_ITER, NOT_IMPROVED = 60, 10


def batched(problem: AuditorProblem) -> RowCall:
    """All problems, in batches; few of them where they are large."""
    few = problem.first(problem.case.peer_groups)
    part = problem if problem.train.numel() <= MOST_ROWS else few
    for eps in TOLERANCES:
        size = batch_size(part, torch.float64)
        trial, call = (RowCall(p, with_autograd(_payoff(p, eps)), chunk=size) for p in (few, part))
        if trial.judge(problem).passed and call.judge(problem).passed:
            break
    return call


def _payoff(problem: AuditorProblem, eps: float) -> Callable[..., Tensor]:
    from qpth.qp import QPFunction

    l2, solver = (
        problem.case.l2,
        QPFunction(eps=eps, verbose=-1, maxIter=MAX_ITER, notImprovedLim=NOT_IMPROVED, check_Q_spd=False),
    )

    def payoff(x: Tensor, y: Tensor, held: Tensor, z: Tensor) -> Tensor:
        n = x.shape[1]
        a = torch.cat([y[..., None] * x, y[..., None]], -1)
        eye = torch.eye(n, dtype=x.dtype, device=x.device)
        scale = 2 / (n * l2)
        q = scale * torch.bmm(a, a.mT) + eye
        empty = x.new_empty(0)
        slack = solver(q, torch.full_like(y, -LARGE), -eye, torch.zeros_like(y[0]), empty, empty)
        w = scale / LARGE * torch.bmm(a.mT, slack.unsqueeze(-1)).squeeze(-1)
        return hinge_payoff(w, held, z, problem.total)

    return payoff
