"""A neural attacker: a small multilayer perceptron on scores, trained to a stationary point.

    g(w) = (1/n) sum_i log(1 + e^{-y_i f(x_i; w)}) + (l2/2) |w|^2

f is smooth, so that the implicit function theorem holds at every strict minimum. g is not convex: there are several,
the seed decides which is found, and no bound follows from l2. Source: docs/game.md, sections 5 and 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from amu_fast.errors import DataError
from amu_fast.followers.minimise import descend
from amu_fast.followers.rows import checked_rows
from amu_fast.linalg import DampedOperator, GlmHessian, LinearOperator, MatrixOperator, Solution

Activation = Literal["tanh", "softplus"]
Curvature = Literal["gauss_newton", "hessian"]


@dataclass(frozen=True)
class NeuralFollower:
    """A multilayer perceptron of scores with one output, the margin; all its parameters are regularised.

    Args:
        hidden: Units of the hidden layers, at least one layer.
        l2: Strength of the regulariser, > 0.
        activation: "tanh" or "softplus", both smooth.
        curvature: What the adjoint system uses in place of H: "gauss_newton" (J^T B J + l2, positive definite, and H
            itself up to the curvature of f, see Accuracy) or "hessian" (exact; may be indefinite).
        damping: Added to the adjoint system alone, >= 0.
        rtol: Training stops at |dg(w)| <= max(rtol |dg(w_0)|, 32 eps (1/n) sum |df_i/dw|).
        max_steps: Most steps of training.
        seed: Of the first weights.

    Accuracy:
        float64 throughout. Gauss-Newton leaves out (1/n) sum l'_i y_i d2f_i/dw2, which stays as large as the attack's
        errors: on overlapping Gaussian scores (40 rows a side, 1 to 4 columns) the payoff's gradient is off by 10 to
        40 per cent. "hessian" agrees with finite differences of the retrained attack to 1e-8 and costs p products.

    Raises:
        DataError: An option is out of range.

    >>> x = torch.tensor([[2.0], [1.0], [-1.0], [-2.0]])
    >>> follower = NeuralFollower(hidden=(4,), l2=1e-2)
    >>> fit = follower.fit(x, torch.tensor([1, 1, -1, -1])).raise_for_status()
    >>> (follower.score(fit.value, x) > 0).tolist()
    [True, True, False, False]
    """

    hidden: tuple[int, ...] = (16,)
    l2: float = 1e-2
    activation: Activation = "tanh"
    curvature: Curvature = "gauss_newton"
    damping: float = 0.0
    rtol: float = 1e-8
    max_steps: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise DataError(f"hidden must name layers of at least one unit, got {self.hidden}; (16,) is the default")
        if not (math.isfinite(self.l2) and self.l2 > 0):
            raise DataError(f"l2 must be > 0, got {self.l2}; 1e-2 is the default")
        if self.activation not in ("tanh", "softplus"):
            raise DataError(f"activation must be 'tanh' or 'softplus', got {self.activation!r}; it must be smooth")
        if self.curvature not in ("gauss_newton", "hessian"):
            raise DataError(f"curvature must be 'gauss_newton' or 'hessian', got {self.curvature!r}")
        if not (math.isfinite(self.damping) and self.damping >= 0):
            raise DataError(f"damping must be finite and >= 0, got {self.damping}; 0 is the default")
        if not 0 <= self.rtol < 1:
            raise DataError(f"rtol must be in [0, 1), got {self.rtol}; 1e-8 is the default")
        if self.max_steps < 1:
            raise DataError(f"max_steps must be >= 1, got {self.max_steps}")

    def size(self, columns: int) -> int:
        """p: parameters for scores of so many columns."""
        return sum((inputs + 1) * outputs for inputs, outputs in pairwise((columns, *self.hidden, 1)))

    def score(self, params: Tensor, scores: Tensor) -> Tensor:
        """f(x; w), (n,), for params (p,) and scores (n, d); higher means member. Differentiable in both."""
        *inner, last = self._layers(params, scores.shape[-1])
        a = scores.to(params.dtype)
        for layer in inner:
            a = self._activate(a @ layer[:, :-1].mT + layer[:, -1])
        return (a @ last[:, :-1].mT + last[:, -1]).squeeze(-1)

    def objective(self, params: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """g(w), a scalar, of one problem: params (p,), scores (n, d), labels (n,). Differentiable."""
        loss = functional.softplus(-labels * self.score(params, scores)).mean()
        return loss + 0.5 * self.l2 * params.square().sum()

    def fit(self, scores: Tensor, labels: Tensor) -> Solution:
        """Train one attack per batch entry. Waits for the device.

        Args:
            scores: (*b, n, d) rows.
            labels: (*b, n) +1 or -1.

        Returns:
            Solution with value w (*b, p) float64; residual_norms are |dg(w)|. Not differentiable: see
            `amu_fast.implicit.best_response`.

        Raises:
            DataError: Shapes do not match or a label is not +1 or -1.
        """
        x, y = checked_rows(scores, labels)
        batch, p = x.shape[:-2], self.size(x.shape[-1])
        start = self._start(x.shape[-1]).to(x.device)
        found = [descend(self, start, *problem) for problem in _problems(x, y)]
        fields = [torch.stack([f[i] for f in found]) for i in range(4)] if found else [start.new_zeros(0)] * 4
        value, status, norms, steps = fields
        return Solution(
            value.reshape(*batch, p), status.to(torch.int8).reshape(batch), norms.reshape(batch), steps.reshape(batch)
        )

    def hessian(self, params: Tensor, scores: Tensor, labels: Tensor) -> LinearOperator:
        """The curvature of g at params (*b, p) that the adjoint system uses, damped."""
        x, y = checked_rows(scores, labels)
        operator: LinearOperator
        if self.curvature == "gauss_newton":
            problems = zip(params.reshape(-1, params.shape[-1]), *_stacked(x, y), strict=True)
            rows = [self.linearised(w, xi, yi) for w, xi, yi in problems]
            jacobian, c = (torch.stack([r[i] for r in rows]) for i in (1, 3))
            batch = x.shape[:-2]
            operator = GlmHessian(
                jacobian.reshape(*batch, *jacobian.shape[1:]), c.reshape(*batch, -1), self.l2, intercept=False
            )
        else:
            problems = zip(params.reshape(-1, params.shape[-1]), *_stacked(x, y), strict=True)
            dense = torch.stack([self.exact_hessian(w, xi, yi) for w, xi, yi in problems])
            operator = MatrixOperator(dense.reshape(*params.shape, params.shape[-1]))
        return DampedOperator(operator, self.damping) if self.damping else operator

    def mixed_vjp(self, params: Tensor, adjoint: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, None]:
        """-d<dg(w), u>/d scores with u = adjoint (*b, p) held constant, (*b, n, d)."""
        x, y = checked_rows(scores, labels)
        flat = [t.reshape(-1, t.shape[-1]) for t in (params.double(), adjoint.double())]
        gradients = [self._mixed(*problem) for problem in zip(*flat, *_stacked(x, y), strict=True)]
        return torch.stack(gradients).reshape(x.shape), None

    def linearised(self, params: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of one problem: f (n,), df/dw (n, p), slopes y l'(m)/n (n,) and curvatures l''(m)/n (n,)."""
        f, jacobian = self._jacobian(params, x)
        m = y * f
        return f, jacobian, -y * torch.sigmoid(-m) / len(y), torch.sigmoid(m) * torch.sigmoid(-m) / len(y)

    def exact_hessian(self, params: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """d2g/dw2 of one problem, (p, p)."""
        with torch.enable_grad():
            w = params.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.objective(w, x, y), w, create_graph=True)
        unit = torch.eye(len(w), dtype=w.dtype, device=w.device)
        (h,) = torch.autograd.grad(slope, w, unit, is_grads_batched=True)
        return (h + h.mT) / 2

    def _mixed(self, params: Tensor, adjoint: Tensor, x: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            w, z = params.detach().requires_grad_(), x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.objective(w, z, y), w, create_graph=True)
            (gradient,) = torch.autograd.grad(-(slope @ adjoint.detach()), z)
        return gradient

    def _jacobian(self, params: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores f (n,) and df/dw (n, p), by one forward and one backward of all rows."""
        *inner, last = self._layers(params, x.shape[-1])
        inputs, slopes = [x], []
        for layer in inner:
            z = inputs[-1] @ layer[:, :-1].mT + layer[:, -1]
            inputs.append(self._activate(z))
            slopes.append(1 - inputs[-1].square() if self.activation == "tanh" else torch.sigmoid(z))
        f = inputs[-1] @ last[:, :-1].mT + last[:, -1]
        delta, blocks = torch.ones_like(f), []
        for i, layer in reversed(list(enumerate((*inner, last)))):
            with_one = torch.cat([inputs[i], torch.ones_like(f)], -1)
            blocks.append((delta[:, :, None] * with_one[:, None, :]).flatten(1))
            if i:
                delta = (delta @ layer[:, :-1]) * slopes[i - 1]
        return f.squeeze(-1), torch.cat(blocks[::-1], -1)

    def _layers(self, params: Tensor, columns: int) -> list[Tensor]:
        """The layers' matrices (outputs, inputs + 1), biases last."""
        shapes = [(outputs, inputs + 1) for inputs, outputs in pairwise((columns, *self.hidden, 1))]
        parts = params.split([a * b for a, b in shapes])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def _activate(self, z: Tensor) -> Tensor:
        return torch.tanh(z) if self.activation == "tanh" else functional.softplus(z)

    def _start(self, columns: int) -> Tensor:
        """First weights, normal with variance 1/inputs; biases 0."""
        rng = torch.Generator().manual_seed(self.seed)
        blocks = []
        for inputs, outputs in pairwise((columns, *self.hidden, 1)):
            weights = torch.randn(outputs, inputs, generator=rng, dtype=torch.float64) / math.sqrt(inputs)
            blocks.append(torch.cat([weights, torch.zeros(outputs, 1, dtype=torch.float64)], 1).flatten())
        return torch.cat(blocks)


def _stacked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(*b, n, d) and (*b, n) with one batch dimension."""
    count = math.prod(x.shape[:-2])
    return x.reshape(count, *x.shape[-2:]), y.reshape(count, y.shape[-1])


def _problems(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(*_stacked(x, y), strict=True))
