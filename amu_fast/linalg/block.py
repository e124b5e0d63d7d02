"""Dense algebra on tall blocks of a few columns, in float64: what block methods share."""

from __future__ import annotations

import torch
from torch import Tensor

from amu_fast.linalg.system import finite
from amu_fast.ops.vectors import norm


def wide(v: Tensor) -> Tensor:
    """(r, *b, p) -> (*b, p, r) in float64."""
    return v.movedim(0, -1).double()


def padded(a: Tensor, dim: int, length: int) -> Tensor:
    """Zeros at the end of a dimension."""
    missing = list(a.shape)
    missing[dim] = length - a.shape[dim]
    return torch.cat([a, a.new_zeros(missing)], dim)


def factored(a: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of symmetric matrices and 0, or a positive number where there is none; NaN counts as no failure."""
    a = (a + a.mT) / 2
    sound = finite(a).flatten(-2).all(-1)[..., None, None]
    one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return torch.linalg.cholesky_ex(torch.where(sound, a, one))


def independent(block: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Columns as combinations of orthonormal ones: block = basis @ factor. Waits for the device.

    Args:
        block: (*b, p, K) float64.
        tolerance: singular values of the columns, each scaled to length 1, below this share of the largest are left
            out.

    Returns:
        basis (*b, p, r), factor (*b, r, K) and kept (*b, r), r the largest rank in the batch; where not kept, 0.
    """
    size = norm(block.mT)[..., None, :]
    scaled = block / torch.where((size > 0) & finite(size), size, 1.0)
    q, r = torch.linalg.qr(torch.where(finite(scaled), scaled, 0.0))
    u, s, vh = torch.linalg.svd(r, full_matrices=False)
    kept = s > tolerance * s[..., :1].clamp_min(torch.finfo(s.dtype).tiny)
    rank = int(kept.sum(-1).max()) if kept.numel() else 0
    basis, factor = q @ u * kept[..., None, :], (s * kept)[..., None] * vh * size
    return basis[..., :rank], factor[..., :rank, :], kept[..., :rank]
