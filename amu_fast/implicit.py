"""Best responses, differentiable by the implicit function theorem.

For an optimum w*(z) of a follower's objective g(w, z) and a cotangent v on w*,

    H u = v,     dL/dz = -d/dz <dg/dw(w, z), u>   with u held constant                  docs/game.md, sections 4 and 6

so a solver with Hessian-vector products is all that is needed; the follower's own iterations are never unrolled.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from amu_fast.errors import DataError, SolveError
from amu_fast.linalg import Cholesky, LinearOperator, Solution


class Follower(Protocol):
    """An optimisation problem with data z = inputs, as `best_response` needs it."""

    def fit(self, *inputs: Tensor) -> Solution:
        """w*(z) with its status."""

    def hessian(self, params: Tensor, *inputs: Tensor) -> LinearOperator:
        """The Hessian of g in w at params."""

    def mixed_vjp(self, params: Tensor, adjoint: Tensor, *inputs: Tensor) -> tuple[Tensor | None, ...]:
        """-d<dg/dw, adjoint>/dz, one entry per input, None where there is no gradient."""


class Solver(Protocol):
    """Anything of `amu_fast.linalg` that solves H u = v."""

    def solve(self, operator: LinearOperator, rhs: Tensor) -> Solution:
        """Solve for u, with its status."""


def best_response(follower: Follower, *inputs: Tensor, solver: Solver | None = None) -> Solution:
    """The follower's optimum, differentiable once in its inputs.

    Args:
        follower: The problem, for example `amu_fast.followers.SquaredHinge(l2=1e-2)`.
        inputs: Its data; for a linear follower scores (*b, n, d) and labels (*b, n).
        solver: Solves the adjoint system; `Cholesky()` by default.

    Returns:
        Solution whose value carries the gradient. Status, residual norms and steps are those of the fit.

    Raises:
        SolveError: In backward, if the adjoint solve does not converge (it synchronises there, once).

    Source: equations (6), (7) of docs/game.md; Blondel et al. 2022 (arXiv 2105.15183) for the general form.

    >>> from amu_fast.followers import SquaredHinge
    >>> x = torch.tensor([[2.0], [1.0], [-1.0], [-3.0]], dtype=torch.float64, requires_grad=True)
    >>> best_response(SquaredHinge(), x, torch.tensor([1, 1, -1, -1])).value.sum().backward()
    >>> x.grad.shape
    torch.Size([4, 1])
    """
    if not inputs:
        raise DataError("best_response needs the follower's data, got no inputs; pass scores and labels")
    solver = Cholesky() if solver is None else solver
    value, status, norms, steps = _BestResponse.apply(follower, solver, *inputs)
    return Solution(value=value, status=status, residual_norms=norms, steps=steps)


class _BestResponse(torch.autograd.Function):
    """Forward fits; backward solves the adjoint system."""

    @staticmethod
    def forward(follower: Follower, solver: Solver, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        fit = follower.fit(*(z.detach() for z in inputs))
        return fit.value, fit.status, fit.residual_norms, fit.steps

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.follower, ctx.solver, *data = inputs
        ctx.save_for_backward(output[0], *data)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        grads = _Adjoint.apply(ctx.follower, ctx.solver, cotangents[0], *ctx.saved_tensors)
        return (
            None,
            None,
            *(g if need else None for g, need in zip(grads, ctx.needs_input_grad[2:], strict=True)),
        )


class _Adjoint(torch.autograd.Function):
    """The gradient as a node of its own, so that a second differentiation raises instead of losing a term."""

    @staticmethod
    def forward(
        follower: Follower, solver: Solver, cotangent: Tensor, params: Tensor, *inputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        data = [z.detach() for z in inputs]
        solution = solver.solve(follower.hessian(params, *data), cotangent.to(params.dtype))
        solution.raise_for_status()
        grads = follower.mixed_vjp(params, solution.value, *data)
        return tuple(None if g is None else g.to(z.dtype) for g, z in zip(grads, inputs, strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise SolveError(
            "best_response is differentiable once, and a second differentiation was asked for; detach its gradient"
        )
