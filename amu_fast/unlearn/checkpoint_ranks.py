"""What the ranks of a run tell one another around a checkpoint."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.unlearn.checkpoint_tensors import Packer

Packed = tuple[Any, dict[str, Tensor]]


def rank_and_size(group: Any = None) -> tuple[int, int]:
    """This rank and the number of ranks; (0, 1) without torch.distributed."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def gather_states(state: Any, group: Any = None) -> list[Packed]:
    """On rank 0 the packed states of all ranks, empty if all are None; elsewhere empty.

    Raises:
        DataError: On rank 0: a rank's state cannot be kept. The other ranks learn that from `agree`.
    """
    rank, size = rank_and_size(group)
    packer = Packer(f"rank{rank}")
    mine: Packed | str
    try:
        mine = (packer.pack(state), packer.tensors)
    except DataError as error:
        mine = f"rank {rank}: {error}"
    everyone: list[Packed | str | None] = [mine]
    if size > 1:
        everyone = [None] * size
        dist.gather_object(mine, everyone if rank == 0 else None, group=group, group_dst=0)
    entries = []
    for entry in everyone:
        if isinstance(entry, str):
            raise DataError(entry)
        if entry is not None:
            entries.append(entry)
    return entries if any(structure is not None for structure, _ in entries) else []


def agree(reason: str, group: Any = None) -> str:
    """Rank 0's `reason`, on every rank, once every rank is here."""
    _, size = rank_and_size(group)
    if size == 1:
        return reason
    message = [reason]
    dist.broadcast_object_list(message, group=group, group_src=0)
    return message[0]
