"""Conjugate gradients for several right-hand sides of one operator, which share one Krylov space.

    R = Q C,  Q^T M Q = I         P = M Q + P_old zeta^T
    Y += P xi C                   xi = (P^T H P)^-1
    Q zeta = Q_old - H P xi       C = zeta C_old

Columns of Y and R are the right-hand sides. The residuals are kept as an orthonormal block times small coefficients, so
right-hand sides that nearly depend on each other, and ones of very different size, cost no digit; those that depend at
the beginning are solved as combinations of the others. One space serves all: far fewer steps than alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from amu_fast.linalg.block import factored, independent, padded, wide
from amu_fast.linalg.resume import SolveState, Watch, stops
from amu_fast.linalg.system import LinearSystem, but_not, check, check_options, finite, plain_arithmetic
from amu_fast.linalg.verified import Verified
from amu_fast.ops.vectors import norm
from amu_fast.status import Status

if TYPE_CHECKING:
    from amu_fast.linalg.operators import LinearOperator
    from amu_fast.linalg.solution import Solution

# A right-hand side depends on the others when this many roundings of the vectors' dtype hide what it adds.
_DEPENDENT = 64.0


@dataclass(frozen=True)
class BlockConjugateGradient:
    """Solve H u = v for positive definite H and several v at once.

    Args:
        rtol: CONVERGED means ||v - H u|| <= max(rtol ||v||, atol) for the true residual, per right-hand side.
        atol: absolute part of the rule.
        max_steps: MAX_STEPS after so many; None means 10 p.
        refresh_every: steps after which R is compared with b - H Y (one more product).

    Every right-hand side has its own verdict, by its true residual, and does not change afterwards. A step is one call
    of the operator with as many right-hand sides as are independent, and one of the preconditioner.

    Accuracy: small matrices, orthonormalisation and all inner products are float64 for float32 vectors too. P^T H P or
    Q^T M Q not positive definite is INDEFINITE for all right-hand sides of that operator, NaN or infinity NONFINITE.

    Source: O'Leary, "The block conjugate gradient algorithm and related methods", Linear Algebra Appl. 29 (1980);
    Dubrulle, "Retooling the method of block conjugate gradients", ETNA 12 (2001), for the orthonormal residuals.

    >>> import torch
    >>> from amu_fast.linalg import MatrixOperator
    >>> h = MatrixOperator(torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)))
    >>> v = torch.tensor([[1.0, 2.0, 4.0], [2.0, 4.0, 8.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    >>> solution = BlockConjugateGradient().solve(h, v)
    >>> solution.value.round(decimals=6).tolist()
    [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]]
    """

    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int | None = None
    refresh_every: int = 50

    def __post_init__(self) -> None:
        check_options(
            "BlockConjugateGradient",
            self.rtol,
            self.atol,
            max_steps=self.max_steps,
            refresh_every=self.refresh_every,
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
        """Solve for every right-hand side; waits for the device in every step.

        Args:
            operator: H, shape `(*b, p, p)`, symmetric positive definite.
            rhs: v, `(*k, *b, p)`; all of `k` share one space.
            initial: first iterate, of rhs' shape.
            preconditioner: M with `matvec(r)` ~ H^-1 r, symmetric positive definite, of the operator's shape.
            progress: called with a `SolveProgress` before every step; returns "stop" to end the solve as MAX_STEPS.
            resume: `SolveProgress.state_dict()` of an interrupted solve of this system with these options.

        Returns:
            A `Solution`; `steps` counts the steps of each right-hand side.

        Raises:
            DataError: shapes, dtypes or devices do not fit, or `resume` is another system's.
        """
        with plain_arithmetic(rhs.device):
            system = LinearSystem.build(operator, rhs, initial, self.rtol, self.atol)
            if preconditioner is not None:
                check(preconditioner, rhs, "rhs (for the preconditioner)")
            state = _State(system, preconditioner)
            if resume is not None:
                state.load_state_dict(resume)
            limit = 10 * rhs.shape[-1] if self.max_steps is None else self.max_steps
            state.begin()
            while state.taken < limit and bool(state.open.any()):
                if stops(progress, state):
                    break
                state.step()
                if state.taken % self.refresh_every == 0 or not bool(but_not(state.open, state.claimed).any()):
                    state.verify()
            state.verify()
            return state.solution()


class _State(Verified):
    """The iterates, and of each problem of the batch the block: `q`, `p` (r, *b, p), `c` (*b, r, K), `kept` (*b, r).

    r is the largest rank in the batch; `kept` says which columns a problem has, the others are 0.
    """

    saved: tuple[str, ...] = (*(name for name in Verified.saved if name != "r"), "size", "q", "p", "c", "kept")

    def __init__(self, system: LinearSystem, preconditioner: LinearOperator | None) -> None:
        super().__init__(system)
        self.preconditioner, self.size = preconditioner, self.true_norm
        batch = len(system.operator.shape) - 2
        self.several = self.r.shape[: self.r.dim() - batch - 1]
        self.count, own = self.several.numel(), self.r.shape[len(self.several) :]
        self.q = self.p = self.r.new_zeros((0, *own))
        self.c = self.r.new_zeros((*own[:-1], 0, self.count), dtype=torch.float64)
        self.kept = self.open.new_zeros((*own[:-1], 0))

    def columns(self, v: Tensor) -> Tensor:
        """(*k, *b, p) -> (*b, p, K) in float64."""
        return v.reshape(self.count, *v.shape[len(self.several) :]).movedim(0, -1).double()

    def rows(self, columns: Tensor) -> Tensor:
        """(*b, p, K) -> (*k, *b, p) in the vectors' dtype."""
        rows = columns.movedim(-1, 0)
        return rows.reshape(*self.several, *rows.shape[1:]).to(self.r.dtype)

    def of_column(self, flags: Tensor) -> Tensor:
        """(*k, *b) -> (*b, K)."""
        return flags.reshape(self.count, *flags.shape[len(self.several) :]).movedim(0, -1)

    def residual_norms(self) -> Tensor:
        """What the recurrence says now."""
        return self.size * self.system.scale[..., 0].double()

    def begin(self) -> None:
        """A new block for every problem that begins (anew) at its residual. Waits for the device."""
        anew = self.of_column(self.restart & self.open).any(-1)
        if not bool(anew.any()):
            return
        block = self.columns(torch.where(self.open[..., None], self.r, 0.0))
        basis, factor, kept = independent(block, _DEPENDENT * torch.finfo(self.r.dtype).eps)
        rank = max(kept.shape[-1], self.kept.shape[-1])
        q, zeta, z = self.conjugate(basis, kept)
        fresh = ((q, -1), (z, -1), (zeta @ factor, -2), (kept, -1))
        old = ((wide(self.q), -1), (wide(self.p), -1), (self.c, -2), (self.kept, -1))
        merged = []
        for (new, dim), (former, _) in zip(fresh, old, strict=True):
            which = anew.reshape(*anew.shape, *[1] * (new.dim() - anew.dim()))
            merged.append(torch.where(which, padded(new, dim, rank), padded(former, dim, rank)))
        self.q, self.p, self.c, self.kept = self.narrow(merged[0]), self.narrow(merged[1]), merged[2], merged[3]
        self.restart.zero_()

    def step(self) -> None:
        """One step of every problem."""
        hp = self.system.operator.matvec(self.p)
        p, h, q = wide(self.p), wide(hp), wide(self.q)
        left_out = torch.diag_embed((~self.kept).double())
        factor, info = factored(p.mT @ h + left_out)
        one = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        xi = torch.cholesky_solve(one.expand_as(factor), factor)
        y = self.y + self.rows(p @ (xi @ self.c))
        basis, r = torch.linalg.qr(q - h @ xi)
        basis, r = basis * self.kept[..., None, :], r * self.kept[..., None]
        inner = r @ self.c
        self.q, self.p, self.c = self.moved(basis, r, p)
        self.judge(y, norm(inner.mT), info, finite(h).flatten(-2).all(-1))

    def moved(self, basis: Tensor, r: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next Q, P and C."""
        q, zeta, z = self.conjugate(basis, self.kept)
        zeta = zeta @ r
        return self.narrow(q), self.narrow(z + p @ zeta.mT), zeta @ self.c

    def conjugate(self, basis: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q with Q^T M Q = I, zeta with Q zeta = basis, and M Q, for orthonormal columns (*b, p, r)."""
        if self.preconditioner is None:
            return basis, torch.diag_embed(kept.double()), basis
        z = wide(self.preconditioner.matvec(self.narrow(basis)))
        factor, info = factored(basis.mT @ z + torch.diag_embed((~kept).double()))
        self.close((info > 0).expand_as(self.open), Status.INDEFINITE)
        q, z = (torch.linalg.solve_triangular(factor.mT, m, upper=True, left=False) for m in (basis, z))
        return q, factor.mT * kept[..., None], z

    def narrow(self, columns: Tensor) -> Tensor:
        """(*b, p, r) -> (r, *b, p) in the vectors' dtype."""
        return columns.movedim(-1, 0).to(self.r.dtype).contiguous()

    def judge(self, y: Tensor, size: Tensor, info: Tensor, sound: Tensor) -> None:
        """Take the step where it is one, and what the recurrence says of it."""
        size = size.movedim(-1, 0).reshape(self.open.shape)
        self.close((~sound).expand_as(self.open), Status.NONFINITE)
        self.close((info > 0).expand_as(self.open), Status.INDEFINITE)
        self.close(~(size < torch.inf), Status.NONFINITE)
        self.y = torch.where(self.open[..., None], y, self.y)
        self.size = torch.where(self.open, size, self.size)
        self.steps, self.taken = self.steps + self.open, self.taken + 1
        self.claimed = self.open & (size <= self.goal)

    def verify(self) -> None:
        """Judge by the true residual; a problem with a residual that has drifted begins anew."""
        self.r = self.rows(wide(self.q) @ self.c)
        super().verify()
        self.begin()

    def renewed(self, drifted: Tensor) -> Tensor:
        """All open right-hand sides of a problem, since they share one block."""
        which = self.of_column(drifted).any(-1)
        return self.open & which.expand_as(self.open)
