"""P1's strongest baselines: batched Newton in PyTorch, eager and compiled. The method is in `newton.py`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amu_fast.bench.auditor_problem import AuditorProblem
from amu_fast.bench.auditor_rows import RowCall
from amu_fast.bench.peers import newton

#: Bytes of the rows of one batch: larger ones leave the cache on the way from one operation to the next.
BATCH_BYTES = {"cpu": 8 * 2**20, "cuda": 2**30}
#: Newton's tolerance; the squared hinge ends exactly once its active rows are right.
RTOL = {torch.float64: 1e-8, torch.float32: 1e-5}


@dataclass(frozen=True)
class Newton:
    """A batch of problems: fit and gradient."""

    follower: newton.Follower
    total: float
    step: newton.Step = newton.newton_step
    compact: bool = True

    def __call__(self, x: Tensor, y: Tensor, held: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the training and of the held-out rows."""
        a = _signed(x, y)
        gram = torch.bmm(a, a.mT) if a.shape[1] < a.shape[2] else None
        w, chol = newton.minimise(self.follower, a, gram, self.step, self.compact)
        return newton.gradient_rows(self.follower, a, gram, y, (_signed(held, z), z), w, chol, self.total)


def _signed(x: Tensor, y: Tensor) -> Tensor:
    a = x.new_empty(*x.shape[:-1], x.shape[-1] + 1)
    torch.mul(x, y.unsqueeze(-1), out=a[..., :-1])
    a[..., -1] = y
    return a


def eager(problem: AuditorProblem, dtype: torch.dtype = torch.float64) -> RowCall:
    """Batched Newton as PyTorch runs it."""
    problem = problem.first(problem.case.batch_groups)
    return RowCall(problem, Newton(_follower(problem, dtype), problem.total), dtype, batch_size(problem, dtype))


def compiled(problem: AuditorProblem) -> RowCall:
    """The same with `torch.compile` over a whole Newton step; shapes are fixed, so no problem leaves its batch."""
    problem = problem.first(problem.case.batch_groups)
    dtype, problems = torch.float64, problem.train.shape[0]
    step = torch.compile(newton.newton_step, dynamic=False)
    # A last batch of another size would be compiled again.
    largest = min(batch_size(problem, dtype), problems)
    chunk = next(size for size in range(largest, 0, -1) if problems % size == 0)
    return RowCall(problem, Newton(_follower(problem, dtype), problem.total, step, compact=False), dtype, chunk)


def _follower(problem: AuditorProblem, dtype: torch.dtype) -> newton.Follower:
    return newton.Follower(problem.case.loss == "logistic", problem.case.l2, RTOL[dtype])


def batch_size(problem: AuditorProblem, dtype: torch.dtype) -> int:
    """Problems whose rows fill a batch."""
    row_bytes = problem.train.shape[1] * (problem.case.columns + 1) * dtype.itemsize
    return max(1, BATCH_BYTES[problem.device.type] // row_bytes)
