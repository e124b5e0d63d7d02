"""One linear system, checked, scaled and judged: what all solvers share.

    scale = the power of two below max|v|        b = v / scale        target = max(rtol ||b||, atol / scale)

Solvers iterate on H y = b with u = scale * y. A power of two makes both scalings exact, so right-hand sides
of 1e-30 and 1e+30 take the same steps to the same digits, and no denominator needs a "+ eps". Inner products
and norms are taken in float64 whatever the dtype of the vectors. The residual that decides is (v - H u)/scale
with the *returned* u.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.linalg.solution import Solution
from amu_fast.ops.vectors import norm
from amu_fast.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from amu_fast.linalg.operators import LinearOperator

WITHOUT_VALUE = (Status.INDEFINITE, Status.NONFINITE, Status.DIVERGED)


@contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """No autograd graph and no autocast: a product in bf16 would be another operator."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def power_of_two(a: Tensor) -> Tensor:
    """2^floor(log2 |a|) elementwise in a's dtype; 1 where a is 0, NaN or infinite."""
    usable = torch.where(a.isfinite() & (a != 0), a.abs(), 1.0)
    mantissa, _ = torch.frexp(usable)
    # usable = mantissa * 2^e with mantissa in [1/2, 1), so this quotient is exactly 2^(e-1).
    return usable / (2.0 * mantissa)


def but_not(a: Tensor, b: Tensor) -> Tensor:
    """`a` and not `b`, for flags, in one kernel."""
    return a > b


def finite(a: Tensor) -> Tensor:
    """Whether each number is neither NaN nor infinite, in two kernels; `isfinite` takes four."""
    return (a - a) == 0


def sync_interval(device: torch.device, check_every: int | None) -> int | None:
    """Steps between two questions to the device whether anything is left to do: 1 on the CPU, where asking is free.

    None: it is never asked.
    """
    return 1 if device.type == "cpu" and check_every is not None else check_every


def true_residual(operator: LinearOperator, rhs: Tensor, value: Tensor) -> Tensor:
    """The residual v - H u by one product, `(*k, *b, p)`; pass an undamped operator for the undamped residual."""
    return rhs - operator.matvec(value)


@dataclass(frozen=True, eq=False)
class LinearSystem:
    """H u = v with its scaling. Vectors of length p are made when they are asked for: a solver keeps what it needs.

    Args:
        operator: shape `(*b, p, p)`.
        rhs: v, `(*k, *b, p)`.
        initial: the first iterate u_0, `(*k, *b, p)`; None: zero.
        scale: `(*k, *b, 1)`, powers of two.
        target: `(*k, *b)` float64; a problem whose scaled residual norm is <= target is solved.
    """

    operator: LinearOperator
    rhs: Tensor
    initial: Tensor | None
    scale: Tensor
    target: Tensor

    @classmethod
    def build(
        cls, operator: LinearOperator, rhs: Tensor, initial: Tensor | None, rtol: float, atol: float
    ) -> LinearSystem:
        """Check arguments and scale."""
        check(operator, rhs, "rhs")
        scale = power_of_two(rhs.abs().amax(-1, keepdim=True))
        target = torch.clamp(rtol * norm(rhs / scale), min=atol / scale[..., 0].double())
        if initial is not None:
            check(operator, initial, "initial", rhs.shape)
        return cls(operator, rhs, initial, scale, target)

    def b(self) -> Tensor:
        """The scaled right-hand side v / scale, `(*k, *b, p)`, in memory of its own."""
        return (self.rhs / self.scale).contiguous()

    def start(self) -> tuple[Tensor, Tensor]:
        """The first iterate y_0 and b - H y_0; zero, and of one element's memory, without `initial`.

        A zero right-hand side starts at zero, so it is solved in 0 steps.
        """
        b = self.b()
        if self.initial is None:
            return b.new_zeros(()).expand(b.shape), b
        zero = (self.rhs == 0).all(-1, keepdim=True)
        residual = torch.where(zero, b, true_residual(self.operator, self.rhs, self.initial) / self.scale)
        return torch.where(zero, 0.0, self.initial / self.scale), residual.contiguous()

    def residual(self, y: Tensor) -> Tensor:
        """(v - H u)/scale, u = scale y: the residual of what would be returned."""
        return true_residual(self.operator, self.rhs, y * self.scale) / self.scale

    def product(self, y: Tensor) -> Tensor:
        """(H u)/scale, u = scale y: the residual is b minus this."""
        return self.operator.matvec(y * self.scale) / self.scale

    def solution(self, y: Tensor, status: Tensor, residual_norms: Tensor, steps: Tensor) -> Solution:
        """Undo the scaling; problems without an answer become NaN."""
        lost = torch.zeros_like(status, dtype=torch.bool)
        for code in WITHOUT_VALUE:
            # As a number: compared with an enum, torch.compile sees False.
            lost = lost | (status == int(code))
        value = torch.where(lost[..., None], math.nan, y * self.scale)
        norms = torch.where(lost, math.nan, residual_norms * self.scale[..., 0].double())
        return Solution(value, status, norms, steps)


class Progress:
    """Where every problem of a batch stands; the base of the solvers' states.

    `open`: no verdict yet; MAX_STEPS if there is none at the end. A closed problem no longer changes. `y` and `r` are
    buffers of their own, which the operators that work in place write into. `saved` names what a solve needs to go on.
    """

    saved: tuple[str, ...] = ()

    def __init__(self, system: LinearSystem) -> None:
        self.system = system
        self.taken = 0
        start, self.r = system.start()
        self.y = self.first(start)
        self.true_norm = norm(self.r)
        self.open = torch.ones_like(self.true_norm, dtype=torch.bool)
        self.status = torch.full_like(self.open, Status.MAX_STEPS, dtype=torch.int8)
        self.steps = torch.zeros_like(self.open, dtype=torch.int64)

    def first(self, start: Tensor) -> Tensor:
        """`y` for the first iterate."""
        return start.clone(memory_format=torch.contiguous_format)

    def close(self, which: Tensor, status: Status) -> None:
        """The verdict for those of `which` that are still open."""
        self.status = torch.where(which & self.open, int(status), self.status).to(torch.int8)
        self.open = but_not(self.open, which)

    def solution(self) -> Solution:
        """Undo the scaling; problems without an answer become NaN."""
        return self.system.solution(self.y, self.status, self.true_norm, self.steps)

    def residual_norms(self) -> Tensor:
        """The latest that are known, with the scaling undone."""
        return self.true_norm * self.system.scale[..., 0].double()

    def state_dict(self) -> dict[str, Any]:
        """Copies of what `saved` names, the steps taken, and norms by which the right-hand sides are known again."""
        tensors = {name: getattr(self, name).clone() for name in self.saved}
        return {**tensors, "taken": self.taken, "rhs_norms": norm(self.system.rhs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. Waits for the device.

        Raises:
            DataError: the state is another solver's or another system's.
        """
        missing = [name for name in (*self.saved, "taken", "rhs_norms") if name not in state]
        if missing:
            raise DataError(f"resume lacks {missing}; it is the state of another solver")
        norms, known = norm(self.system.rhs), state["rhs_norms"].to(self.system.rhs.device)
        if state["y"].shape != self.y.shape or not torch.equal(norms.nan_to_num(), known.nan_to_num()):
            raise DataError(
                f"resume is of a system with shape {tuple(state['y'].shape)} and right-hand sides of norm "
                f"{known.flatten().tolist()[:3]}, got {tuple(self.y.shape)} and {norms.flatten().tolist()[:3]}; "
                "continue with the same right-hand sides"
            )
        for name in self.saved:
            setattr(self, name, state[name].to(self.y.device, copy=True))
        self.taken = int(state["taken"])


def check(operator: LinearOperator, v: Tensor, name: str, shape: torch.Size | None = None) -> None:
    """Shape `(*k, *b, p)` (or exactly `shape`), dtype and device of `v` must fit the operator."""
    expected = operator.shape[:-1] if shape is None else shape
    fits = v.dim() >= len(expected) and v.shape[v.dim() - len(expected) :] == expected
    if not fits or (shape is not None and v.shape != shape):
        raise DataError(
            f"{name} must have shape {'' if shape else '*k, '}{tuple(expected)}, got {tuple(v.shape)}; "
            "extra leading dimensions are right-hand sides"
        )
    if v.dtype != operator.dtype or v.device != operator.device:
        raise DataError(
            f"{name} is {v.dtype} on {v.device}, the operator {operator.dtype} on {operator.device}; "
            f"convert with {name}.to(operator.device, operator.dtype)"
        )
    if v.dtype not in (torch.float32, torch.float64):
        raise DataError(f"solvers work in float32 or float64, got {v.dtype}; cast the operator and {name} first")
    if v.shape[-1] == 0:
        raise DataError(f"{name} has p = 0 unknowns; drop the empty system")


def check_options(owner: str, rtol: float, atol: float, **counts: int | None) -> None:
    """Tolerances must be finite and >= 0, every count >= 1."""
    for name, number in (("rtol", rtol), ("atol", atol)):
        if not (math.isfinite(number) and number >= 0):
            raise DataError(f"{owner}: {name} must be finite and >= 0, got {number}; defaults do")
    for name, count in counts.items():
        if count is not None and count < 1:
            raise DataError(f"{owner}: {name} must be >= 1, got {count}; None or the default does")
