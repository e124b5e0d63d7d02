"""Linear attackers: regularised logistic regression and two smooth support vector machines.

    g(w) = (1/n) sum_i l(y_i <[x_i, 1], w>) + (l2/2) |w|^2                                  equation (2) of docs/game.md

The intercept is the last entry of w and is regularised, as in liblinear. Source: docs/game.md, section 3; in
scikit-learn's terms C = 1/(n l2) with `intercept_scaling=1`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.followers.rows import checked_rows
from amu_fast.linalg import GlmHessian, Solution
from amu_fast.ops import losses
from amu_fast.ops.glm_mixed import glm_mixed_vjp
from amu_fast.ops.newton import Problems, minimise


@dataclass(frozen=True)
class LinearFollower:
    """A linear attack; use `Logistic`, `SquaredHinge` or `HuberisedHinge`.

    Args:
        l2: Strength of the regulariser, > 0; it makes the optimum unique and the payoff differentiable.
        rtol: Newton stops at |dg(w)| <= max(rtol |dg(0)|, 32 eps (1/n) sum |x_i|).
        max_steps: Most Newton steps.

    Raises:
        DataError: l2, rtol or max_steps is out of range.
    """

    l2: float = 1e-2
    rtol: float = 1e-10
    max_steps: int = 200

    kind = -1
    width = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.l2) and self.l2 > 0):
            raise DataError(f"l2 must be > 0, got {self.l2}; a positive l2 makes the follower strongly convex")
        if not 0 <= self.rtol < 1:
            raise DataError(f"rtol must be in [0, 1), got {self.rtol}; 1e-10 is the default")
        if self.max_steps < 1:
            raise DataError(f"max_steps must be >= 1, got {self.max_steps}")

    def fit(self, scores: Tensor, labels: Tensor) -> Solution:
        """Fit one attack per batch entry.

        Args:
            scores: (*b, n, d) rows.
            labels: (*b, n) +1 or -1.

        Returns:
            Solution with value w (*b, d + 1) float64; residual_norms are |dg(w)|. Not differentiable: see
            `amu_fast.implicit.best_response`.

        Raises:
            DataError: Shapes do not match or a label is not +1 or -1.

        >>> x = torch.tensor([[2.0], [1.0], [-1.0], [-2.0]])
        >>> w = SquaredHinge(l2=1e-2).fit(x, torch.tensor([1, 1, -1, -1])).value
        >>> bool(w[0] > 0), bool(w[1].abs() < 1e-12)
        (True, True)
        """
        problems = self._problems(scores, labels)
        if problems.x.shape[1] < problems.x.shape[2]:
            problems = problems.with_gram()
        optima = minimise(problems, self.rtol, self.max_steps)
        batch = scores.shape[:-2]
        return Solution(
            value=optima.w.reshape(*batch, optima.w.shape[-1]),
            status=optima.status.reshape(batch),
            residual_norms=optima.gradient_norm.reshape(batch),
            steps=optima.steps.reshape(batch),
        )

    def objective(self, params: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """(*b): g(w) of equation (2), for params (*b, d + 1)."""
        problems = self._problems(scores, labels)
        w = params.double().reshape(problems.x[:, 0].shape)
        return problems.objective(problems.margins(w), w).reshape(scores.shape[:-2])

    def hessian(self, params: Tensor, scores: Tensor, labels: Tensor) -> GlmHessian:
        """The Hessian of g at params (*b, d + 1): equation (4)."""
        problems = self._problems(scores, labels)
        w = params.double().reshape(problems.x[:, 0].shape)
        c = problems.row_curvature(problems.margins(w)).reshape(labels.shape)
        return GlmHessian(scores.double(), c, self.l2, intercept=True)

    def mixed_vjp(self, params: Tensor, adjoint: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, None]:
        """-d<dg(w), u>/d scores with u = adjoint (*b, d + 1) held constant: equation (7), (*b, n, d)."""
        x, y = checked_rows(scores, labels)
        t = torch.full_like(y, 1 / y.shape[-1])
        return glm_mixed_vjp(x, y, t, params.double(), adjoint.double(), self.kind, self.width, True), None

    def _problems(self, scores: Tensor, labels: Tensor) -> Problems:
        x, y = checked_rows(scores, labels)
        *batch, n, d = x.shape
        x = torch.cat([x, torch.ones_like(x[..., :1])], -1).reshape(math.prod(batch), n, d + 1)
        y = y.reshape(math.prod(batch), n)
        return Problems(x, y, torch.full_like(y, 1 / n), self.kind, self.l2, self.width)


@dataclass(frozen=True)
class Logistic(LinearFollower):
    """l(m) = log(1 + e^-m): smooth everywhere, no uncertain rows."""

    kind = losses.LOGISTIC


@dataclass(frozen=True)
class SquaredHinge(LinearFollower):
    """l(m) = max(0, 1 - m)^2: the default; scikit-learn's `LinearSVC`."""

    kind = losses.SQUARED_HINGE


@dataclass(frozen=True)
class HuberisedHinge(LinearFollower):
    """The hinge with its corner rounded over a width; tends to the hinge of the published method as width -> 0.

    Args:
        width: Width of the rounded part, in margins, 0 < width <= 2.
    """

    width: float = 0.5

    kind = losses.HUBERISED_HINGE

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.width <= 2:
            raise DataError(f"width must be in (0, 2], got {self.width}; 0.5 is the default")
