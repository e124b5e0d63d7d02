"""How a solve ended, one value per problem.

Failures are values with advice: a batch in which one problem of a thousand fails still returns the other 999.
"""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """State in which a solver left one problem; stored as int8 in tensors on the problem's device."""

    CONVERGED = 0
    MAX_STEPS = 1
    INDEFINITE = 2
    NONFINITE = 3
    STAGNATED = 4
    DIVERGED = 5
    SKIPPED = 6

    @property
    def advice(self) -> str:
        """What to do about it, in one sentence."""
        return _ADVICE[self]


_ADVICE = {
    Status.CONVERGED: "The residual is below its tolerance; nothing to do.",
    Status.MAX_STEPS: "Raise max_steps, loosen rtol, add a preconditioner, or raise damping (or l2, a new problem).",
    Status.INDEFINITE: "The operator has a direction of curvature <= 0; add damping or use a Gauss-Newton operator.",
    Status.NONFINITE: "NaN or infinity in the operator, the right-hand side or the scores; check the model's outputs.",
    Status.STAGNATED: "The residual stopped above its tolerance; use float64, iterative refinement or a looser rtol.",
    Status.DIVERGED: "The iteration grows; use a smaller step size (at most 1/lambda_max) or conjugate gradients.",
    Status.SKIPPED: "Too few rows: each membership cell of a problem needs at least 2: larger batches, fewer groups.",
}
