"""How launchers see their arguments: batches flattened to one dimension, rows with unit column stride.

Rows are read in 128-bit words where pointer and row stride allow. A mask that ends at an odd d would forbid that, so
where the memory holds them the columns up to the next multiple of 16 are read too and replaced by zeros: whatever
lies there, NaN included, has no effect. No row is copied for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

_PADDING = 16
_WORD_BYTES = 16


@dataclass(frozen=True)
class Rows:
    """Rows x (B, n, d) as a kernel reads them.

    Attributes:
        data: (B, n, loaded) view with unit column stride; batch and row strides are arbitrary, zero included.
        d: columns that count.
        loaded: columns that may be read.
    """

    data: Tensor
    d: int
    loaded: int

    @property
    def strides(self) -> tuple[int, int]:
        """Strides of problems and of rows, in elements."""
        return self.data.stride(0), self.data.stride(1)


def flatten(tensor: Tensor, batch: torch.Size, core: int) -> Tensor:
    """Broadcast to `batch`, flatten it: (B, *core dimensions) with unit stride in the last; copies only if it must."""
    shape = tensor.shape[tensor.ndim - core :]
    flat = tensor.expand((*batch, *shape)).reshape(batch.numel(), *shape)
    return flat if core == 0 or flat.stride(-1) == 1 else flat.contiguous()


def rows(x: Tensor, batch: torch.Size) -> Rows:
    """x (*b, n, d) as `Rows`."""
    flat = flatten(x, batch, 2)
    problems, n, d = flat.shape
    padded = triton.cdiv(d, _PADDING) * _PADDING
    if padded == d or not _readable(flat, padded):
        return Rows(flat, d, d)
    return Rows(flat.as_strided((problems, n, padded), flat.stride()), d, padded)


def _readable(x: Tensor, width: int) -> bool:
    """Whether rows of `width` columns start at whole 128-bit words and end within x's memory."""
    problems, n = x.shape[:2]
    if x.numel() == 0 or x.data_ptr() % _WORD_BYTES:
        return False
    strides = [s for size, s in zip((problems, n), x.stride(), strict=False) if size > 1]
    last = x.storage_offset() + (problems - 1) * x.stride(0) + (n - 1) * x.stride(1)
    room = x.untyped_storage().nbytes() // x.element_size() - last
    return room >= width and all(stride % _PADDING == 0 for stride in strides)
