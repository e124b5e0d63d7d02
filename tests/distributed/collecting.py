"""Pairs of what a collective returned on this rank and what it must be, from a formula that every rank can work out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from amu_fast.audit.gather import check_agreement, gather_rows, gather_sides, global_mean
from amu_fast.errors import DataError

ROWS = ((3, 5, 2), (4, 0, 3), (0, 0, 0))
SHAPES = ((), (2,), (3, 0), (2, 3))
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool)


def block(rank: int, rows: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return (
        torch.randn(rows, *shape, generator=torch.Generator().manual_seed(rank), dtype=torch.float64).mul(9).to(dtype)
    )


def collectives(rank: int, size: int) -> dict[str, Any]:
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for rows in ROWS:
        for shape in SHAPES:
            for dtype in DTYPES:
                blocks = [block(r, rows[r], shape, dtype) for r in range(size)]
                pairs[f"{rows[:size]} {shape} {dtype}"] = gather_rows(blocks[rank]), torch.cat(blocks)
    pairs |= gradients(rank, size) | sides(rank, size) | means(rank, size)
    if size == 3:
        pairs |= in_group_of_two(rank)
    return {"pairs": pairs, "sent": sent(rank), "refused": refusals(rank, size)}


def gradients(rank: int, size: int) -> dict[str, tuple[Tensor, Tensor]]:
    pairs = {}
    for rows in ROWS:
        blocks = [block(r, rows[r], (2,), torch.float64) for r in range(size)]
        start = sum(rows[:rank])
        # d sum(g³) / d g = 3 g²
        slope = 3 * torch.cat(blocks)[start : start + rows[rank]] ** 2
        for average in (True, False):
            x = blocks[rank].clone().requires_grad_()
            gathered = gather_rows(x, average=average)
            gathered.pow(3).sum().backward()
            pairs[f"gradient {rows[:size]} {average}"] = x.grad, slope * (size if average else 1)
    # non-contiguous rows, and a gather of torch's own, whose backward sums what the ranks computed alike
    mine, theirs = (block(rank, 4, (6,), torch.float64).requires_grad_() for _ in range(2))
    gather_rows(mine[:, ::2]).cos().prod().backward()
    torch.cat(all_gather(theirs[:, ::2].contiguous())).cos().prod().backward()
    pairs["gradient of torch's gather"] = mine.grad, theirs.grad
    with torch.no_grad():
        quiet = gather_rows(mine)
    assert not quiet.requires_grad
    return pairs


def sides(rank: int, size: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Everything at once is what it is one by one, also of half precision beside int64."""
    pairs = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        members, others = (block(rank + seed, 3 - rank, (2,), dtype).requires_grad_() for seed in (0, 10))
        ids = [block(rank + seed, 3 - rank, (), torch.int64) for seed in (20, 30)]
        found = gather_sides(members, others, None, (ids[0], ids[1]))
        assert found.groups is None
        one_by_one = [gather_rows(x) for x in (members, others, *ids)]
        for name, a, b in zip("abcd", (found[0], found[1], *found.clusters), one_by_one, strict=True):
            pairs[f"sides {dtype} {name}"] = a, b
        (found[0].sum() + 2 * found[1].sum()).backward()
        pairs[f"sides {dtype} gradient"] = others.grad, torch.full_like(others, 2.0 * size)
    return pairs


def means(rank: int, size: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The average over ranks of values and of gradients is the global mean's; a rank may have no terms."""
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    blocks = [block(r, n, (), torch.float64) for r, n in enumerate((3, 0, 4)[:size])]
    mean = global_mean((weight**2 * blocks[rank]).sum(), torch.tensor(len(blocks[rank])))
    mean.backward()
    average = torch.stack([mean.detach(), weight.grad])
    dist.all_reduce(average)
    whole = torch.cat(blocks).mean()
    return {"mean": (average / size, torch.stack([0.49 * whole, 1.4 * whole]))}


def in_group_of_two(rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    group = dist.new_group([0, 2])
    if rank == 1:
        refusal = refused(lambda: gather_rows(torch.ones(1), group))
        assert "rank 1 is not in the group" in refusal
        return {}
    blocks = [block(r, 1 + r, (), torch.float64) for r in (0, 2)]
    return {"group": (gather_rows(blocks[rank // 2], group), torch.cat(blocks))}


def sent(rank: int) -> dict[str, int]:
    """Collectives of one auditing set."""
    count = 0
    usual = dist.all_gather

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        return usual(*args, **options)

    dist.all_gather = counted
    try:
        x, ids = torch.ones(2 + rank, 1), torch.zeros(2 + rank, dtype=torch.int64)
        gather_sides(x, x, (ids, ids), (ids, ids))
        everything = count
        gather_sides(x[:0], x[:0])
    finally:
        dist.all_gather = usual
    return {"everything": everything, "nothing": count - everything}


def refused(action: Callable[[], Any]) -> str:
    try:
        action()
    except DataError as error:
        return str(error)
    return ""


def refusals(rank: int, size: int) -> dict[str, str]:
    """Every rank must refuse what the last one does otherwise; the next collective works again."""
    odd = rank == size - 1
    x, ids = torch.ones(2, 3), torch.zeros(2, dtype=torch.int64)
    found = {
        "dtype": refused(lambda: gather_rows(x.double() if odd else x)),
        "columns": refused(lambda: gather_rows(x[:, :2] if odd else x)),
        "clusters": refused(lambda: gather_sides(x, x, None, None if odd else (ids, ids))),
        "scalar": refused(lambda: gather_rows(torch.ones(()))),
        "number": refused(lambda: check_agreement(5.0 + odd, "weight")),
        "agreed": refused(lambda: check_agreement(x, "ones")),
    }
    last = x.double()
    last[0, 0] += 2.3e-16 * odd
    found["bit"] = refused(lambda: check_agreement(last, "attack"))
    return found
