"""Preconditioned conjugate gradients for a batch of symmetric positive definite systems.

    z = M r    beta = <r, z> / <r, z>_old    p = z + beta p    alpha = <r, z> / <p, H p>
    y += alpha p    r -= alpha H p

M approximates H^-1 (identity without preconditioner). The recurrence for r only claims convergence: every
`refresh_every` steps, and when no problem is left running, the true residual decides (see `verified`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.linalg.resume import SolveState, Watch, check_watch, stops
from amu_fast.linalg.system import (
    LinearSystem,
    but_not,
    check,
    check_options,
    finite,
    plain_arithmetic,
    sync_interval,
)
from amu_fast.linalg.verified import Verified
from amu_fast.ops.vectors import CG_DIRECTION, CG_UPDATE
from amu_fast.status import Status

if TYPE_CHECKING:
    from amu_fast.linalg.operators import LinearOperator
    from amu_fast.linalg.solution import Solution


@dataclass(frozen=True)
class ConjugateGradient:
    """Solve H u = v for positive definite H: ||u_t - u||_H <= 2 ((sqrt(k) - 1)/(sqrt(k) + 1))^t ||u||_H.

    k is the condition number of the preconditioned operator (docs/game.md section 6). Every problem stops by
    itself and does not change afterwards, bit for bit.

    Args:
        rtol: CONVERGED means ||v - H u|| <= max(rtol ||v||, atol), SciPy's rule, for the true residual.
        atol: absolute part of the rule.
        max_steps: MAX_STEPS after so many; None means 10 p.
        refresh_every: steps after which r is compared with b - H y (one more product).
        check_every: synchronises once every so many steps on a device, to stop early (every step on the CPU). None:
            never; exactly `max_steps` steps are made, of which those after a verdict change nothing. Such a solve can
            be captured in a CUDA graph and compiled by `torch.compile(fullgraph=True)`.

    Accuracy: alpha, beta and all inner products are float64 for float32 vectors too. The attainable residual
    is about eps ||H|| ||u||, eps that of the dtype; a smaller tolerance ends as STAGNATED. <p, H p> <= 0 or
    <r, z> <= 0 (operator or preconditioner not positive definite) is INDEFINITE, NaN or infinity NONFINITE.

    Source: Hestenes and Stiefel 1952; residual replacement after van der Vorst and Ye, SIAM J. Sci. Comput.
    22 (2000).

    >>> import torch
    >>> from amu_fast.linalg import MatrixOperator
    >>> h = MatrixOperator(torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64))
    >>> solution = ConjugateGradient().solve(h, torch.tensor([1.0, 2.0], dtype=torch.float64))
    >>> [round(x, 6) for x in solution.value.tolist()], int(solution.steps)
    ([0.090909, 0.636364], 2)
    """

    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int | None = None
    refresh_every: int = 50
    check_every: int | None = 10

    def __post_init__(self) -> None:
        check_options(
            "ConjugateGradient",
            self.rtol,
            self.atol,
            max_steps=self.max_steps,
            refresh_every=self.refresh_every,
            check_every=self.check_every,
        )
        if self.check_every is None and self.max_steps is None:
            raise DataError(
                "ConjugateGradient: check_every=None makes exactly max_steps steps, got max_steps=None; set it"
            )

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
            initial: first iterate, of rhs' shape; a good one saves steps, the tolerance stays relative to
                ||v||.
            preconditioner: M with `matvec(r)` ~ H^-1 r, symmetric positive definite, of the operator's shape.
            progress: called with a `SolveProgress` at every check; returns "stop" to end the solve as MAX_STEPS.
            resume: `SolveProgress.state_dict()` of an interrupted solve of this system with these options (its
                `max_steps` apart): the answer is bit for bit that of one solve on the CPU.

        Returns:
            A `Solution`; `steps` counts steps, each with one product by H and one by M.

        Raises:
            DataError: shapes, dtypes or devices do not fit, or `resume` is another system's.
        """
        check_watch("ConjugateGradient", progress, self.check_every)
        with plain_arithmetic(rhs.device):
            system = LinearSystem.build(operator, rhs, initial, self.rtol, self.atol)
            if preconditioner is not None:
                check(preconditioner, rhs, "rhs (for the preconditioner)")
            state = _State(system, preconditioner)
            if resume is not None:
                state.load_state_dict(resume)
            interval = sync_interval(rhs.device, self.check_every)
            limit = 10 * rhs.shape[-1] if self.max_steps is None else self.max_steps
            stopped = False
            while state.taken < limit and not stopped and (interval is None or bool(state.open.any())):
                # looks fall on multiples of refresh_every, wherever a solve was interrupted
                ahead = self.refresh_every - state.taken % self.refresh_every
                stopped = state.sweep(min(ahead, limit - state.taken), interval, progress)
                state.verify()
            return state.solution()


class _State(Verified):
    """The iterates of all problems, with the direction p and <r, z> of each."""

    saved: tuple[str, ...] = (*Verified.saved, "p", "rz")

    def __init__(self, system: LinearSystem, preconditioner: LinearOperator | None) -> None:
        super().__init__(system)
        self.preconditioner = preconditioner
        self.p, self.rz = torch.zeros_like(self.r), torch.ones_like(self.true_norm)

    def sweep(self, count: int, check_every: int | None, progress: Watch | None) -> bool:
        """At most `count` steps; fewer when a check finds nothing running, or (True) the callback stops it."""
        for i in range(count):
            if check_every is not None and i % check_every == 0:
                if not bool(but_not(self.open, self.claimed).any()):
                    return False
                if stops(progress, self):
                    return True
            self.step()
            self.taken += 1
        return False

    def step(self) -> None:
        """One step of every running problem: p, then y and r, then what they say."""
        running = but_not(self.open, self.claimed)
        z = self.r if self.preconditioner is None else self.preconditioner.matvec(self.r)
        CG_DIRECTION.bare(self.r, z, self.p, self.rz, self.restart, running)
        hp = self.system.operator.matvec(self.p)
        curvature, size = CG_UPDATE.bare(self.p, hp, self.rz, running, self.y, self.r)
        usable = running & finite(curvature + self.rz)
        moved = usable & (curvature > 0) & (self.rz > 0)
        sound = moved & (size < torch.inf)
        self.steps = self.steps + moved
        self.claimed = self.claimed | (sound & (size <= self.goal))
        self.close(but_not(usable, moved), Status.INDEFINITE)
        self.close(but_not(running, sound), Status.NONFINITE)
