"""Rows of all ranks: every rank sees the whole auditing set, solves the same game and pulls its own rows back.

Rank r holds rows [start_r, end_r) of the global batch, so that the blocks one after another are the batch of a run on
one rank. DDP, FSDP and ZeRO average the gradients of k ranks: gradients are scaled here such that this average is the
gradient on one rank. Without torch.distributed, or on one rank, everything is the identity.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from amu_fast.errors import DataError

Pair = tuple[Tensor, Tensor]

_ABSENT = -1


class GatheredSides(NamedTuple):
    """Both sides of the global auditing set, in the order of `Auditor.payoff`'s arguments.

    Attributes:
        member_scores: (N, d).
        nonmember_scores: (M, d).
        groups: (N,) and (M,), or None.
        clusters: (N,) and (M,), or None.
    """

    member_scores: Tensor
    nonmember_scores: Tensor
    groups: Pair | None
    clusters: Pair | None


def world_size(group: Any = None) -> int:
    """Ranks of the group; 1 without torch.distributed. DataError if this process is not one of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    size = dist.get_world_size(group)
    if size < 1:
        raise DataError(f"rank {dist.get_rank()} is not in the group; call with a group that this process belongs to")
    return size


def gather_rows(x: Tensor, group: Any = None, *, average: bool = True) -> Tensor:
    """The rows of all ranks in rank order; this very tensor on one rank.

    Backward sends nothing: a rank's gradient is its own slice of the result's, which is right where every rank computes
    the same from the result. Two small collectives; waits for the device once, for the numbers of rows.

    Args:
        x: (n_r, ...) rows of this rank, n_r >= 0; the trailing shape and the dtype (any) are the same on all ranks.
        group: Process group of the ranks; None: all of them.
        average: The wrapper around the model averages gradients (DDP, FSDP, ZeRO): the slice is multiplied by the
            number of ranks. False: gradients are summed, and the slice is passed on as it is.

    Returns:
        (sum of n_r, ...).

    Raises:
        DataError: Ranks differ in dtype or trailing shape, or x has no rows dimension; on every rank alike.

    >>> x = torch.ones(3, 1)
    >>> gather_rows(x) is x
    True
    """
    if world_size(group) == 1:
        return x
    (gathered,) = _gather({"x": x}, group, average)
    assert gathered is not None
    return gathered


def gather_sides(
    member_scores: Tensor,
    nonmember_scores: Tensor,
    groups: Pair | None = None,
    clusters: Pair | None = None,
    group: Any = None,
    *,
    average: bool = True,
) -> GatheredSides:
    """`gather_rows` of all that `Auditor.payoff` needs, in two collectives together.

    Args:
        member_scores: (n_r, d) of this rank, n_r >= 0.
        nonmember_scores: (m_r, d) of this rank, m_r >= 0.
        groups: Group of each row of either side, int64; given on all ranks or on none.
        clusters: Person of each row of either side, int64; given on all ranks or on none. Numbers are global.
        group: Process group of the ranks; None: all of them.
        average: See `gather_rows`.

    Returns:
        Rows of all ranks: `auditor.payoff(*gather_sides(...), step=step)`.

    Raises:
        DataError: Ranks differ in dtypes, in columns, or in whether they have groups or clusters.
    """
    if world_size(group) == 1:
        return GatheredSides(member_scores, nonmember_scores, groups, clusters)
    named: dict[str, Tensor | None] = {"member_scores": member_scores, "nonmember_scores": nonmember_scores}
    for name, pair in (("groups", groups), ("clusters", clusters)):
        # absent ones have their place in the header, so that ranks which disagree find out
        named[f"{name} of members"], named[f"{name} of non-members"] = pair or (None, None)
    members, others, *pairs = _gather(named, group, average)
    assert members is not None
    assert others is not None
    return GatheredSides(members, others, _pair(*pairs[:2]), _pair(*pairs[2:]))


def global_mean(total: Tensor, count: Tensor, group: Any = None) -> Tensor:
    """The sum of `total` over ranks / the sum of `count`, as this rank's share of an average over ranks.

    The average over ranks of the result, and of its gradients, is the global mean and its gradient: a mean over each
    rank's own rows is not where ranks have different numbers of rows or counted tokens.

    Args:
        total: Scalar, this rank's sum, with its graph.
        count: Scalar, this rank's number of terms; 0 is fine. NaN if all ranks have none.
        group: Process group of the ranks; None: all of them.

    Returns:
        total · ranks / sum of counts.

    >>> float(global_mean(torch.tensor(6.0), torch.tensor(4)))
    1.5
    """
    size = world_size(group)
    if size == 1:
        return total / count
    everywhere = count.detach().to(torch.float64)  # a copy, and exact beyond 2²⁴ tokens
    dist.all_reduce(everywhere, group=group)
    return total * (size / everywhere).to(total.dtype)


def check_agreement(value: Tensor | float | str, name: str, group: Any = None) -> None:
    """Refuse to go on where ranks differ by as much as a bit. For debugging and tests: it waits for the device.

    Args:
        value: What all ranks must have alike: parameters of an attack, a step, a weight.
        name: Of the value, for the message.
        group: Process group of the ranks; None: all of them.

    Raises:
        DataError: Ranks differ; on every rank alike.

    >>> check_agreement(3, "step")
    """
    size = world_size(group)
    if size == 1:
        return
    device = torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")
    prints = torch.empty(size, dtype=torch.int64, device=device)
    dist.all_gather(list(prints.split(1)), torch.tensor([_fingerprint(value)], device=device), group=group)
    others = (prints != prints[0]).nonzero().flatten().tolist()
    if others:
        mine = "" if isinstance(value, Tensor) else f" (here {value!r})"
        raise DataError(
            f"{name} must be equal on all ranks, rank(s) {others} differ from rank 0{mine}; give every rank the same "
            "options, seed and step, and `gather_rows` their rows"
        )


def _fingerprint(value: Tensor | float | str) -> int:
    if isinstance(value, Tensor):
        text = f"{value.dtype}{tuple(value.shape)}".encode() + _bytes(value).cpu().numpy().tobytes()
    else:
        text = repr(value).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big", signed=True)


def _pair(members: Tensor | None, others: Tensor | None) -> Pair | None:
    return None if members is None or others is None else (members, others)


def _bytes(x: Tensor) -> Tensor:
    return x.detach().contiguous().reshape(-1).view(torch.uint8)


def _gather(named: dict[str, Tensor | None], group: Any, average: bool) -> list[Tensor | None]:
    """All tensors in two collectives: how many rows each rank has, then the rows of all tensors as padded bytes."""
    for name, x in named.items():
        if x is not None and x.dim() == 0:
            raise DataError(f"{name} must be (n, ...) rows, got a scalar; use unsqueeze(0)")
    tensors = list(named.values())
    device = next(x.device for x in tensors if x is not None)
    rows = _agreed_rows(named, device, group)
    row_bytes = [0 if x is None else math.prod(x.shape[1:]) * x.element_size() for x in tensors]
    lengths = [[n * width for n, width in zip(of_rank, row_bytes, strict=True)] for of_rank in rows]
    padded = max(sum(of_rank) for of_rank in lengths)
    received = torch.empty(len(rows), padded, dtype=torch.uint8, device=device)
    if padded:
        sent = torch.cat([_bytes(x).to(device) for x in tensors if x is not None])
        sent = torch.nn.functional.pad(sent, (0, padded - len(sent)))
        dist.all_gather(list(received), sent, group=group)
    blocks = [received[r, : sum(of_rank)].split(of_rank) for r, of_rank in enumerate(lengths)]
    scale = len(rows) if average else 1
    me = dist.get_rank(group)
    return [
        None if x is None else _assembled(x, [of_rank[j] for of_rank in blocks], [n[j] for n in rows], me, scale)
        for j, x in enumerate(tensors)
    ]


def _agreed_rows(named: dict[str, Tensor | None], device: torch.device, group: Any) -> list[list[int]]:
    """Rows of each tensor on each rank; DataError on every rank if they are not of one kind."""
    header = [
        (0, _ABSENT) if x is None else (len(x), zlib.crc32(f"{x.dtype}{tuple(x.shape[1:])}".encode()))
        for x in named.values()
    ]
    mine = torch.tensor(header, device=device)
    every = mine.new_empty(world_size(group), *mine.shape)
    dist.all_gather(list(every), mine, group=group)
    headers: list[list[list[int]]] = every.tolist()
    for j, (name, x) in enumerate(named.items()):
        others = [r for r, other in enumerate(headers) if other[j][1] != headers[0][j][1]]
        if others:
            here = "none" if x is None else f"(rows, {', '.join(map(str, x.shape[1:]))}) {x.dtype}"
            raise DataError(
                f"{name} must be of one dtype and trailing shape on all ranks, rank(s) {others} differ from rank 0 "
                f"(here {here}); a rank without rows passes (0, ...) of the same kind"
            )
    return [[n for n, _ in header] for header in headers]


def _assembled(x: Tensor, blocks: Sequence[Tensor], rows: Sequence[int], me: int, scale: int) -> Tensor:
    """The blocks of bytes as rows, this rank's own with its graph."""
    # a clone starts where any dtype may
    parts = [b.clone().view(x.dtype).view(n, *x.shape[1:]).to(x.device) for b, n in zip(blocks, rows, strict=True)]
    if x.requires_grad and torch.is_grad_enabled():
        own = x.view_as(x)
        own.register_hook(lambda gradient: gradient * scale)
        parts[me] = own
    return torch.cat(parts)
