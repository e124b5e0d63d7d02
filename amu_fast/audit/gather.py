"""Rows of all ranks, with their graph."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor


def world_size(group: Any = None) -> int:
    """Ranks of the group; 1 without torch.distributed."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def gather_rows(x: Tensor, group: Any = None) -> Tensor:
    """The (n_r, ...) rows of all ranks in rank order; this very tensor on one rank."""
    if world_size(group) == 1:
        return x
    raise NotImplementedError


def global_mean(total: Tensor, count: Tensor, group: Any = None) -> Tensor:
    """Sum of `total` over ranks / sum of `count`, times the ranks' share: averaged gradients are the mean's."""
    size = world_size(group)
    if size == 1:
        return total / count
    everywhere = count.detach().clone()
    dist.all_reduce(everywhere, group=group)
    return total * size / everywhere
