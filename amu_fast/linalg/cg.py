"""Preconditioned conjugate gradients for a batch of symmetric positive definite systems.

    z = M r    beta = <r, z> / <r, z>_old    p = z + beta p    alpha = <r, z> / <p, H p>
    y += alpha p    r -= alpha H p

M approximates H^-1 (identity without preconditioner). The recurrence for r drifts away from b - H y (claimed
1e-7, true 6e-4 at condition number 1e4 in float32), so it only *claims* convergence: every
`refresh_every` steps, and when no problem is left running, the true residual is computed and decides. Where r has
drifted it is replaced and the direction dropped; elsewhere r stays, since swapping it under a direction that belongs
to the old one destroys conjugacy (the iteration then diverges near the rounding level). From there on only the
correction is summed, so that the answer is rounded once and not in every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.linalg.system import (
    LinearSystem,
    Progress,
    but_not,
    check,
    check_options,
    finite,
    plain_arithmetic,
    sync_interval,
)
from amu_fast.ops.vectors import CG_DIRECTION, CG_UPDATE, norm
from amu_fast.status import Status

if TYPE_CHECKING:
    from amu_fast.linalg.operators import LinearOperator
    from amu_fast.linalg.solution import Solution

# r has drifted when it is further than this share of its own norm from the true residual. If the true residual has
# not halved since that happened last, rounding is all that is left.
_DRIFT = 0.5
_PROGRESS = 0.5


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
    ) -> Solution:
        """Solve for every right-hand side; synchronises every `check_every` steps (never with None).

        Args:
            operator: H, shape `(*b, p, p)`, symmetric positive definite.
            rhs: v, `(*k, *b, p)`.
            initial: first iterate, of rhs' shape; a good one saves steps, the tolerance stays relative to
                ||v||.
            preconditioner: M with `matvec(r)` ~ H^-1 r, symmetric positive definite, of the operator's shape.

        Returns:
            A `Solution`; `steps` counts steps, each with one product by H and one by M.

        Raises:
            DataError: shapes, dtypes or devices do not fit.
        """
        with plain_arithmetic(rhs.device):
            system = LinearSystem.build(operator, rhs, initial, self.rtol, self.atol)
            if preconditioner is not None:
                check(preconditioner, rhs, "rhs (for the preconditioner)")
            state = _State(system, preconditioner)
            interval = sync_interval(rhs.device, self.check_every)
            limit = 10 * rhs.shape[-1] if self.max_steps is None else self.max_steps
            while state.taken < limit and (interval is None or bool(state.open.any())):
                state.sweep(min(self.refresh_every, limit - state.taken), interval)
                state.verify()
            return system.solution(state.base + state.y, state.status, state.true_norm, state.steps)


class _State(Progress):
    """The iterates of all problems. `open`: no verdict yet. `claimed`: the recurrence says solved; paused."""

    def __init__(self, system: LinearSystem, preconditioner: LinearOperator | None) -> None:
        super().__init__(system)
        self.preconditioner = preconditioner
        self.claimed = torch.zeros_like(self.open)
        self.goal = system.target
        self.anchor = torch.full_like(self.true_norm, torch.inf)
        self.taken = 0
        # The iterate is base + y: y is what was added since r last began at the truth, so it is rounded as finely as r.
        self.base, self.y = self.y, torch.zeros_like(self.y)
        self.close(~self.true_norm.isfinite(), Status.NONFINITE)
        self.close(self.true_norm <= system.target, Status.CONVERGED)
        self.p, self.rz = torch.zeros_like(self.r), torch.ones_like(self.true_norm)
        self.restart = torch.ones_like(self.open)

    def sweep(self, count: int, check_every: int | None) -> None:
        """At most `count` steps; fewer when a check finds nothing running."""
        for i in range(count):
            if check_every is not None and i % check_every == 0 and not bool(but_not(self.open, self.claimed).any()):
                return
            self.step()
            self.taken += 1

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

    def verify(self) -> None:
        """Judge by the true residual: CONVERGED, STAGNATED, or go on (where r has drifted, from there)."""
        whole = self.base + self.y
        true = self.system.residual(whole)
        size, gap = norm(true), norm(true - self.r)
        self.true_norm = torch.where(self.open, size, self.true_norm)
        self.close(~size.isfinite(), Status.NONFINITE)
        self.close(size <= self.system.target, Status.CONVERGED)
        drifted = self.open & (gap > _DRIFT * norm(self.r))
        self.close(drifted & (size > _PROGRESS * self.anchor), Status.STAGNATED)
        self.anchor = torch.where(drifted, size, self.anchor)
        self.r.copy_(torch.where(drifted[..., None], true, self.r))
        self.base = torch.where(drifted[..., None], whole, self.base)
        self.y.copy_(torch.where(drifted[..., None], 0.0, self.y))
        # A claim that was refuted: the next one needs a margin, r beginning at the truth again or not.
        self.goal = torch.where(
            self.claimed | drifted, torch.where(drifted, self.system.target, self.goal) / 2, self.goal
        )
        self.claimed = torch.zeros_like(self.claimed)
        self.restart.copy_(drifted)
