"""Operator E: dot products and the in-place updates of conjugate gradients and of Neumann's series on flat vectors.

Dot products multiply and add in double, in parts and then over parts, always in the same order. Scalars stay on the
device in double and no launcher waits for it, so a solver's loop can be captured in a CUDA graph. An update multiplies
and adds in double and rounds once; a vector that stands still is written back as it was read, so that no address
depends on data.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from amu_fast.kernels.configurations import configuration, cut
from amu_fast.kernels.layout import flatten

# Entries of a tile; most parts of a vector.
_BLOCK = 2048
_PARTS = tl.constexpr(1024)


@triton.jit
def _total(partials, problem, parts):
    """The sum of a problem's partial sums."""
    part = tl.arange(0, _PARTS)
    return tl.sum(tl.load(partials + problem * parts + part, mask=part < parts, other=0.0), 0)


@triton.jit
def _positive(value):
    return (value > 0.0) & (value < float("inf"))


@triton.jit
def _dot(a, b, partials, size, a_batch, b_batch, parts, tiles, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    problem = (pid // parts).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float64)
    for i in range(tiles):
        index = ((pid % parts) * tiles + i).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        left = tl.load(a + problem * a_batch + index, mask=index < size, other=0.0)
        right = tl.load(b + problem * b_batch + index, mask=index < size, other=0.0)
        total += left.to(tl.float64) * right.to(tl.float64)
    tl.store(partials + pid, tl.sum(total, 0))


@triton.jit
def _finish(partials, out, parts, ROOT: tl.constexpr):
    problem = tl.program_id(0).to(tl.int64)
    total = _total(partials, problem, parts)
    tl.store(out + problem, tl.sqrt(total) if ROOT else total)


@triton.jit
def _direction(z, p, partials, rz, restart, running, size, z_batch, running_batch, parts, tiles, BLOCK: tl.constexpr):
    """p = z where it restarts, else z + beta p; only where running."""
    pid = tl.program_id(0)
    problem = (pid // parts).to(tl.int64)
    beta = _total(partials, problem, parts) / tl.load(rz + problem)
    again = tl.load(restart + problem) != 0
    go = tl.load(running + problem * running_batch) != 0
    for i in range(tiles):
        index = ((pid % parts) * tiles + i).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = index < size
        residual = tl.load(z + problem * z_batch + index, mask=inside, other=0.0)
        old = tl.load(p + problem * size + index, mask=inside, other=0.0)
        new = (residual.to(tl.float64) + beta * old.to(tl.float64)).to(tl.float32)
        new = tl.where(again, residual, new)
        tl.store(p + problem * size + index, tl.where(go, new, old), mask=inside)


@triton.jit
def _direction_state(partials, rz, restart, running, running_batch, parts):
    """rz = <r, z> and restart = False where running: after every program of `_direction` has read the old ones."""
    problem = tl.program_id(0).to(tl.int64)
    go = tl.load(running + problem * running_batch) != 0
    tl.store(rz + problem, tl.where(go, _total(partials, problem, parts), tl.load(rz + problem)))
    tl.store(restart + problem, (tl.load(restart + problem) != 0) & (go == 0))


@triton.jit
def _update(
    p,
    hp,
    rz,
    running,
    partials,
    y,
    r,
    curvature,
    norms,
    size,
    p_batch,
    hp_batch,
    rz_batch,
    running_batch,
    parts,
    tiles,
    BLOCK: tl.constexpr,
):
    """y += alpha p, r -= alpha hp where the step is sound, and the partial sums of |r|^2."""
    pid = tl.program_id(0)
    problem = (pid // parts).to(tl.int64)
    bend = _total(partials, problem, parts)
    decrease = tl.load(rz + problem * rz_batch)
    go = (tl.load(running + problem * running_batch) != 0) & _positive(bend) & _positive(decrease)
    alpha = decrease / bend
    total = tl.zeros([BLOCK], tl.float64)
    for i in range(tiles):
        index = ((pid % parts) * tiles + i).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = index < size
        old = tl.load(r + problem * size + index, mask=inside, other=0.0)
        step = tl.load(hp + problem * hp_batch + index, mask=inside, other=0.0)
        new = (old.to(tl.float64) - alpha * step.to(tl.float64)).to(tl.float32)
        new = tl.where(go, new, old)
        tl.store(r + problem * size + index, new, mask=inside)
        total += new.to(tl.float64) * new.to(tl.float64)
        direction = tl.load(p + problem * p_batch + index, mask=inside, other=0.0)
        old = tl.load(y + problem * size + index, mask=inside, other=0.0)
        new = (old.to(tl.float64) + alpha * direction.to(tl.float64)).to(tl.float32)
        tl.store(y + problem * size + index, tl.where(go, new, old), mask=inside)
    tl.store(norms + pid, tl.sum(total, 0))
    tl.store(curvature + problem, bend, mask=pid % parts == 0)


@triton.jit
def _series(
    b,
    hy,
    eta,
    running,
    y,
    r,
    norms,
    size,
    b_batch,
    hy_batch,
    eta_batch,
    running_batch,
    parts,
    tiles,
    BLOCK: tl.constexpr,
):
    """r = b - hy, y += eta r where running, and the partial sums of |r|^2."""
    pid = tl.program_id(0)
    problem = (pid // parts).to(tl.int64)
    rate = tl.load(eta + problem * eta_batch)
    go = tl.load(running + problem * running_batch) != 0
    total = tl.zeros([BLOCK], tl.float64)
    for i in range(tiles):
        index = ((pid % parts) * tiles + i).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = index < size
        target = tl.load(b + problem * b_batch + index, mask=inside, other=0.0)
        residual = target - tl.load(hy + problem * hy_batch + index, mask=inside, other=0.0)
        tl.store(r + problem * size + index, residual, mask=inside)
        residual = residual.to(tl.float64)
        total += residual * residual
        old = tl.load(y + problem * size + index, mask=inside, other=0.0)
        new = (old.to(tl.float64) + rate * residual).to(tl.float32)
        tl.store(y + problem * size + index, tl.where(go, new, old), mask=inside)
    tl.store(norms + pid, tl.sum(total, 0))


class _Launch:
    """One way of cutting vectors (B, N) for all kernels of an operator."""

    def __init__(self, like: Tensor, problems: int, size: int) -> None:
        row = configuration("vectors", like, _BLOCK)
        self.problems, self.size, self.device = problems, size, like.device
        self.parts, self.tiles = cut(size, _BLOCK, problems, min(row.programs, _PARTS.value * problems))
        self.parts_options = {"BLOCK": _BLOCK, "num_warps": row.warps, "enable_fp_fusion": True}
        self.options = {"num_warps": 4, "enable_fp_fusion": True}

    def empty(self) -> Tensor:
        """Room for one partial sum per part."""
        return torch.empty(self.problems, self.parts, dtype=torch.float64, device=self.device)

    def each_part(self, kernel: Callable[..., None], *arguments: object) -> None:
        """Run a kernel over all parts."""
        kernel[(self.problems * self.parts,)](*arguments, self.parts, self.tiles, **self.parts_options)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Partial sums of <a, b>."""
        partials = self.empty()
        self.each_part(_dot, a, b, partials, self.size, a.stride(0), b.stride(0))
        return partials

    def finish(self, partials: Tensor, batch: torch.Size, root: bool) -> Tensor:
        """(*b) sums over parts, or their roots."""
        out = torch.empty(batch, dtype=torch.float64, device=self.device)
        _finish[(self.problems,)](partials, out, self.parts, ROOT=root, **self.options)
        return out


def multi_dot(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> (*b) in float64 of a, b (*b, N)."""
    batch = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    if batch.numel() == 0 or a.shape[-1] == 0:
        return torch.zeros(batch, dtype=torch.float64, device=a.device)
    launch = _Launch(a, batch.numel(), a.shape[-1])
    return launch.finish(launch.dot(flatten(a, batch, 1), flatten(b, batch, 1)), batch, root=False)


def cg_direction(r: Tensor, z: Tensor, p: Tensor, rz: Tensor, restart: Tensor, running: Tensor) -> None:
    """In place, where running: rz' = <r, z>, p = z if restart else z + (rz'/rz) p, rz = rz', restart = False."""
    batch, size = p.shape[:-1], p.shape[-1]
    if p.numel() == 0:
        rz.masked_fill_(running, 0.0)
        restart.masked_fill_(running, False)
        return
    r, z, running = flatten(r, batch, 1), flatten(z, batch, 1), flatten(running, batch, 0)
    own_p, own_rz, own_restart = p.contiguous(), rz.contiguous(), restart.contiguous()
    launch = _Launch(p, batch.numel(), size)
    partials = launch.dot(r, z)
    scalars = (own_rz, own_restart, running)
    launch.each_part(_direction, z, own_p, partials, *scalars, size, z.stride(0), running.stride(0))
    grid = (launch.problems,)
    _direction_state[grid](partials, *scalars, running.stride(0), launch.parts, **launch.options)
    _write_back((p, own_p), (rz, own_rz), (restart, own_restart))


def cg_update(p: Tensor, hp: Tensor, rz: Tensor, running: Tensor, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """curvature = <p, hp> (*b); where running, curvature and rz are sound: y += alpha p, r -= alpha hp; |r| (*b)."""
    batch, size = r.shape[:-1], r.shape[-1]
    curvature = torch.empty(batch, dtype=torch.float64, device=r.device)
    if r.numel() == 0:
        return curvature.zero_(), torch.zeros_like(curvature)
    p, hp = flatten(p, batch, 1), flatten(hp, batch, 1)
    rz, running = flatten(rz, batch, 0), flatten(running, batch, 0)
    own_y, own_r = y.contiguous(), r.contiguous()
    launch = _Launch(r, batch.numel(), size)
    partials, norms = launch.dot(p, hp), launch.empty()
    strides = (p.stride(0), hp.stride(0), rz.stride(0), running.stride(0))
    launch.each_part(_update, p, hp, rz, running, partials, own_y, own_r, curvature, norms, size, *strides)
    _write_back((y, own_y), (r, own_r))
    return curvature, launch.finish(norms, batch, root=True)


def neumann_step(b: Tensor, hy: Tensor, eta: Tensor, running: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """r = b - hy; y += eta r where running; |r| (*b) in float64."""
    batch, size = r.shape[:-1], r.shape[-1]
    if r.numel() == 0:
        return torch.zeros(batch, dtype=torch.float64, device=r.device)
    b, hy = flatten(b, batch, 1), flatten(hy, batch, 1)
    eta, running = flatten(eta, batch, 0), flatten(running, batch, 0)
    own_y, own_r = y.contiguous(), r.contiguous()
    launch = _Launch(r, batch.numel(), size)
    norms = launch.empty()
    strides = (b.stride(0), hy.stride(0), eta.stride(0), running.stride(0))
    launch.each_part(_series, b, hy, eta, running, own_y, own_r, norms, size, *strides)
    _write_back((y, own_y), (r, own_r))
    return launch.finish(norms, batch, root=True)


def _write_back(*pairs: tuple[Tensor, Tensor]) -> None:
    """Copy contiguous stand-ins of strided in-place arguments back; nothing where they are the argument itself."""
    for argument, stand_in in pairs:
        if stand_in is not argument:
            argument.copy_(stand_in)
