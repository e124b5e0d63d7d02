"""The Neumann series, as a fixed-point iteration whose residual is at hand in every step.

    u_0 = eta v,    u_{t+1} = u_t + eta (v - H u_t)          that is u_t = eta sum_{k=0..t} (I - eta H)^k v
    ||u_t - u|| <= rho^{t+1} ||u||,    rho = max(|1 - eta l_min|, |1 - eta l_max|)

The factor eta makes the sum tend to H^-1 v (without it, to H^-1 v / eta). It converges iff 0 < eta < 2/l_max.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.linalg.power import largest_eigenvalue, measured
from amu_fast.linalg.resume import SolveState, Watch, check_watch, stops
from amu_fast.linalg.system import LinearSystem, Progress, check, check_options, plain_arithmetic, sync_interval
from amu_fast.ops.vectors import NEUMANN_STEP, norm
from amu_fast.status import Status

if TYPE_CHECKING:
    from amu_fast.linalg.operators import LinearOperator
    from amu_fast.linalg.solution import Solution

# The residual of a convergent series falls in every step (each of its components along H's eigenvectors does). So
# growth by this factor over the smallest residual seen is divergence ...
_GROWTH = 10.0
# ... and so is slower growth, by this factor, when there was no new smallest one for so many steps; unless the steps
# have become as small as rounding, within this many eps of the iterate: then it has stagnated.
_SLOW_GROWTH = 1.001
_PATIENCE = 50
_ROUNDING = 32.0


@dataclass(frozen=True)
class Neumann:
    """Solve H u = v by u_{t+1} = u_t + eta M (v - H u_t), u_0 = eta M v (M = I without preconditioner).

    Args:
        rtol: CONVERGED means ||v - H u|| <= max(rtol ||v||, atol) for the true residual.
        atol: absolute part of the rule.
        max_steps: MAX_STEPS after so many steps.
        terms: sum exactly so many terms of the series, whatever the residual; the status says whether the
            tolerance was met (MAX_STEPS if not), a growing residual is DIVERGED all the same.
        step_size: eta, for every problem; None: 1/(safety * estimate), the estimate by power iteration.
        power_steps: products of the power iteration.
        safety: ten power steps reach about .96 of l_max, so with 1.1 eta stays below 1/l_max; it converges as
            long as the estimate is above l_max/(2 safety).
        seed: of the power iteration's start vector.
        check_every: synchronises once every so many steps on a device, to stop early (every step on the CPU). None:
            never; all steps are made, of which those after a verdict change nothing. Such a solve can be captured in
            a CUDA graph and compiled by `torch.compile(fullgraph=True)`.

    Accuracy: the residual is the true one in every step. Where it grows over its smallest value (tenfold at once, or
    at all over 50 steps) the status is DIVERGED and the value NaN: never an answer. Where the steps have become as
    small as rounding the status is STAGNATED.

    >>> import torch
    >>> from amu_fast.linalg import MatrixOperator
    >>> h = MatrixOperator(torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64)))
    >>> v = torch.ones(2, dtype=torch.float64)
    >>> Neumann(terms=3, step_size=0.5).solve(h, v).value.tolist()
    [0.875, 0.5]
    """

    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int = 1000
    terms: int | None = None
    step_size: float | None = None
    power_steps: int = 10
    safety: float = 1.1
    seed: int = 0
    check_every: int | None = 10

    def __post_init__(self) -> None:
        check_options(
            "Neumann",
            self.rtol,
            self.atol,
            max_steps=self.max_steps,
            terms=self.terms,
            power_steps=self.power_steps,
            check_every=self.check_every,
        )
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise DataError(f"Neumann: step_size must be > 0, got {self.step_size}; None estimates 1/l_max")
        if not 1 <= self.safety < float("inf"):
            raise DataError(f"Neumann: safety must be >= 1, got {self.safety}; power iteration underestimates l_max")

    def solve(
        self,
        operator: LinearOperator,
        rhs: Tensor,
        *,
        initial: Tensor | None = None,
        preconditioner: LinearOperator | None = None,
        progress: Watch | None = None,
        resume: SolveState | None = None,
    ) -> Solution:
        """Solve for every right-hand side; synchronises every `check_every` steps (never with None).

        Args:
            operator: H, shape `(*b, p, p)`, symmetric positive definite.
            rhs: v, `(*k, *b, p)`.
            initial: u_0 in place of eta v; excludes `terms`.
            preconditioner: M with `matvec(r)` ~ H^-1 r, symmetric positive definite.
            progress: called with a `SolveProgress` at every check; returns "stop" to end the solve as MAX_STEPS.
            resume: `SolveProgress.state_dict()` of an interrupted solve of this system.

        Returns:
            A `Solution`; `steps` is t, the steps after u_0 (K terms are K - 1 steps).

        Raises:
            DataError: shapes, dtypes or devices do not fit, or `initial` with `terms`.
        """
        if initial is not None and self.terms is not None:
            raise DataError(f"terms={self.terms} sums a series from zero; drop initial, or terms")
        check_watch("Neumann", progress, self.check_every)
        with plain_arithmetic(rhs.device):
            system = LinearSystem.build(operator, rhs, initial, self.rtol, self.atol)
            if preconditioner is not None:
                check(preconditioner, rhs, "rhs (for the preconditioner)")
            # a state brings its own
            eta = self._eta(operator, preconditioner) if resume is None else torch.ones_like(system.target)
            state = _State(system, preconditioner, eta, fixed=self.terms is not None)
            if resume is not None:
                state.load_state_dict(resume)
            elif initial is None:
                state.update()
            limit = self.max_steps if self.terms is None else self.terms - 1
            state.run(limit, sync_interval(rhs.device, self.check_every), progress)
            return state.solution()

    def _eta(self, operator: LinearOperator, preconditioner: LinearOperator | None) -> Tensor:
        if self.step_size is not None:
            return torch.full((), self.step_size, dtype=torch.float64, device=operator.device)
        estimate = largest_eigenvalue(operator, steps=self.power_steps, seed=self.seed, preconditioner=preconditioner)
        return 1.0 / (self.safety * estimate)


class _State(Progress):
    """The iterates of all problems; `fixed`: a met tolerance does not stop the sum before its last term."""

    saved: tuple[str, ...] = ("y", "eta", "best", "best_step", "open", "status", "steps", "true_norm")

    def __init__(
        self, system: LinearSystem, preconditioner: LinearOperator | None, eta: Tensor, *, fixed: bool
    ) -> None:
        super().__init__(system)
        self.preconditioner, self.fixed = preconditioner, fixed
        self.eta = eta.expand(self.true_norm.shape)
        self.z, self.best = measured(self.r, preconditioner)
        self.best_step = self.steps
        self.b, self.hy = system.b(), torch.zeros_like(self.r)
        self.nobody = torch.zeros_like(self.open)
        # A sum of fixed length needs no look at the residual before its next term: `judge` adds that by the way.
        self.ahead = fixed and preconditioner is None

    def run(self, limit: int, interval: int | None, progress: Watch | None) -> None:
        """Steps up to number `limit`, or until nothing is open, or the callback stops it; the last look at the end."""
        while self.taken < limit:
            looking = interval is not None and self.taken % interval == 0
            if looking and stops(progress, self):
                break
            self.judge(self.taken)
            if looking and not bool(self.open.any()):
                return
            if not self.ahead:
                self.update()
            self.steps = self.steps + self.open
            self.taken += 1
        self.judge(self.taken, last=True)

    def update(self) -> None:
        """Add eta M r to y for every open problem."""
        if self.preconditioner is None:
            NEUMANN_STEP.bare(self.b, self.hy, self.eta, self.open, self.y, self.r)
        else:
            step = self.eta.to(self.y.dtype)[..., None] * self.z
            self.y.copy_(torch.where(self.open[..., None], self.y + step, self.y))

    def judge(self, t: int, *, last: bool = False) -> None:
        """The true residual of u_t and what it says."""
        self.hy = self.system.product(self.y)
        adding = self.open if self.ahead and not last else self.nobody
        size = NEUMANN_STEP.bare(self.b, self.hy, self.eta, adding, self.y, self.r)
        self.true_norm = torch.where(self.open, size, self.true_norm)
        self.close(~(size < torch.inf), Status.NONFINITE)
        if last or not self.fixed:
            self.close(size <= self.system.target, Status.CONVERGED)
        measure, step = self.measured(size)
        better = measure < self.best
        self.best, self.best_step = torch.where(better, measure, self.best), torch.where(better, t, self.best_step)
        idle = t - self.best_step >= _PATIENCE
        still = step <= _ROUNDING * torch.finfo(self.y.dtype).eps * norm(self.y)
        growth = measure / self.best
        self.close((growth > _GROWTH) | (idle & ~still & (growth > _SLOW_GROWTH)), Status.DIVERGED)
        if not self.fixed:
            self.close(idle & still, Status.STAGNATED)

    def measured(self, size: Tensor) -> tuple[Tensor, Tensor]:
        """The norm of r that contracts, and the length of the next step."""
        if self.preconditioner is None:
            return size, self.eta * size
        self.z, measure = measured(self.r, self.preconditioner)
        return measure, self.eta * norm(self.z)
