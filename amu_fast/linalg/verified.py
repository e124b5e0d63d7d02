"""What solvers with a recurrence for their residual share: the recurrence only claims, the true residual decides.

The recurrence for r drifts away from b - H y (claimed 1e-7, true 6e-4 at condition number 1e4 in float32). Every so
many steps, and when no problem is left running, the true residual is computed. Where r has drifted it is replaced and
the direction dropped; elsewhere r stays, since swapping it under a direction that belongs to the old one destroys
conjugacy (the iteration then diverges near the rounding level). From there on only the correction is summed, so that
the answer is rounded once and not in every step.

Source: residual replacement after van der Vorst and Ye, SIAM J. Sci. Comput. 22 (2000).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from amu_fast.linalg.system import LinearSystem, Progress
from amu_fast.ops.vectors import norm
from amu_fast.status import Status

if TYPE_CHECKING:
    from amu_fast.linalg.solution import Solution

# r has drifted when it is further than this share of its own norm from the true residual. If the true residual has
# not halved since that happened last, rounding is all that is left.
_DRIFT = 0.5
_PROGRESS = 0.5


class Verified(Progress):
    """The iterates of all problems. `open`: no verdict yet. `claimed`: the recurrence says solved; paused.

    The iterate is base + y: y is what was added since r last began at the truth, so it is rounded as finely as r.
    """

    saved: tuple[str, ...] = (
        "base",
        "y",
        "r",
        "restart",
        "claimed",
        "goal",
        "anchor",
        "open",
        "status",
        "steps",
        "true_norm",
    )

    def __init__(self, system: LinearSystem) -> None:
        super().__init__(system)
        self.claimed = torch.zeros_like(self.open)
        self.goal = system.target
        self.anchor = torch.full_like(self.true_norm, torch.inf)
        self.close(~self.true_norm.isfinite(), Status.NONFINITE)
        self.close(self.true_norm <= system.target, Status.CONVERGED)
        self.restart = torch.ones_like(self.open)

    def first(self, start: Tensor) -> Tensor:
        """Nothing was added yet."""
        self.base = start
        return torch.zeros_like(start, memory_format=torch.contiguous_format)

    def residual_norms(self) -> Tensor:
        """What the recurrence says now."""
        return norm(self.r) * self.system.scale[..., 0].double()

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
        drifted = self.renewed(drifted)
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

    def renewed(self, drifted: Tensor) -> Tensor:
        """The problems that begin anew where `drifted` ones do: these alone."""
        return drifted

    def solution(self) -> Solution:
        """Undo the scaling; problems without an answer become NaN."""
        return self.system.solution(self.base + self.y, self.status, self.true_norm, self.steps)
