"""The machine's ceilings, measured in the run that they are compared with: reading, copying, matrix products."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from amu_fast.bench.contender import Call

#: (call, amount per call): bytes for reading and copying, flops for products.
Ceiling = tuple[Call, float]


@dataclass(frozen=True)
class Sizes:
    """How large the measured operations are.

    Attributes:
        buffer: bytes; more than any cache holds.
        gemm: rows and columns of the factors of a float32 product.
    """

    buffer: int
    gemm: int


CPU, GPU, SMOKE = Sizes(256 * 2**20, 1536), Sizes(2**30, 8192), Sizes(2**16, 32)


def reads(sizes: Sizes, device: torch.device, data: torch.Tensor | None = None) -> dict[str, Ceiling]:
    """Read once, in several ways; none is fastest everywhere, and the fastest is the ceiling.

    Args:
        sizes: of the buffer that is read if the case has no large data of its own.
        device: where.
        data: contiguous; the case's own.
    """
    if data is None:
        data = torch.ones(sizes.buffer // 4096, 1024, device=device)
    flat, amount = data.view(-1), float(data.numel() * data.element_size())
    half = flat.numel() // 2
    left, right = flat[:half], flat[half : 2 * half]
    v = torch.ones(data.shape[-1], device=device, dtype=data.dtype)
    return {
        "read sum": (lambda number: flat.sum(dtype=torch.float32), amount),
        "read dot": (lambda number: torch.dot(left, right), amount),
        "read mv": (lambda number: torch.mv(data, v), amount),
    }


def copy(sizes: Sizes, device: torch.device) -> Ceiling:
    """Read and write: a copy counts twice."""
    source = torch.ones(sizes.buffer // 8, device=device)
    target = torch.empty_like(source)
    return (lambda number: target.copy_(source)), 2.0 * source.numel() * 4


def gemm(dtype: str, sizes: Sizes, device: torch.device) -> Ceiling:
    """A square product of random data."""
    n, kind = sizes.gemm // (2 if dtype == "float64" else 1), getattr(torch, dtype)
    a, b = (torch.randn(n, n, device=device).to(kind) for _ in range(2))
    out = torch.empty_like(a)
    return (lambda number: torch.mm(a, b, out=out)), 2.0 * n**3
