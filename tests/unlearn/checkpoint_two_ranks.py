"""Two ranks save, forget everything and go on: for a process that imported torch and may fork."""

from __future__ import annotations

import copy
import json
import os
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from amu_fast.errors import DataError
from amu_fast.unlearn.checkpoint import (
    CheckpointStore,
    capture_rng,
    model_state,
    optimizer_state,
    restore,
    restore_rng,
)

SIZE = 2


class Training:
    """Rows, labels and dropout come from this rank's global generator."""

    def __init__(self, wrap: str, seed: int) -> None:
        torch.manual_seed(seed)
        inner = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 3))
        self.plain = copy.deepcopy(inner)
        self.model = DistributedDataParallel(inner) if wrap == "ddp" else fully_shard(inner)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05)
        torch.manual_seed(1000 * seed + dist.get_rank())

    def steps(self, count: int) -> None:
        for _ in range(count):
            x, y = torch.randn(5, 4), torch.randint(3, (5,))
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()

    def states(self) -> dict:
        return {"model": model_state(self.model), "optimizer": optimizer_state(self.model, self.optimizer)}

    def bits(self) -> list[torch.Tensor]:
        """This rank's share of the state, and its generator's next numbers."""
        tensors = list(self.model.parameters())
        tensors += [v for s in self.optimizer.state_dict()["state"].values() for v in s.values()]
        local = [getattr(t.detach(), "to_local", lambda t=t: t)().clone() for t in tensors]
        return [*local, torch.rand(4)]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def refused(action) -> str:
    try:
        action()
    except DataError as error:
        return str(error)
    return ""


def on_rank(folder: Path, wrap: str) -> dict[str, object]:
    store = CheckpointStore(folder / wrap)
    first = Training(wrap, seed=1)
    first.steps(2)
    path = store.save(2, **first.states(), state={"at": 2}, rank_state=capture_rng())
    first.steps(2)
    expected = first.bits()
    second = Training(wrap, seed=2)
    checkpoint = store.load(path)
    restore(checkpoint, second.model, second.optimizer)
    restore_rng(checkpoint.of_rank())
    second.steps(2)
    found = second.bits()
    # a single process takes it too, and the other wrapper
    restore(checkpoint, second.plain, torch.optim.AdamW(second.plain.parameters()))
    other = Training({"ddp": "fsdp", "fsdp": "ddp"}[wrap], seed=3)
    restore(checkpoint, other.model, other.optimizer)
    restore_rng(checkpoint.of_rank())
    other.steps(2)
    states = first.states()
    mine = object() if dist.get_rank() == 1 else None
    return {
        "resumed": same(found, expected),
        "differs_by_rank": not torch.equal(*(state["torch"] for state in checkpoint.rank_states)),
        "other_wrapper": all(
            torch.allclose(a, b, rtol=1e-5, atol=1e-6)
            for a, b in zip(gathered(other), gathered(first), strict=True)
        ),
        "step_not_later": refused(lambda: store.save(2, **states)),
        "bad_on_rank_1": refused(lambda: store.save(3, **states, rank_state=mine)),
        "still": store.latest().name,
    }  # fmt: skip


def gathered(training: Training) -> list[torch.Tensor]:
    """Whole parameters, on every rank."""
    return [getattr(p.detach(), "full_tensor", lambda p=p: p.detach())() for p in training.model.parameters()]


def two_ranks(folder: Path) -> dict[str, list[dict[str, object]]]:
    """What both ranks found, with DDP and with FSDP2."""
    pids = []
    for rank in range(SIZE):
        pid = os.fork()
        if not pid:
            try:
                meeting = f"file://{folder}/meeting"
                dist.init_process_group("gloo", meeting, timedelta(seconds=120), SIZE, rank)
                found = {wrap: on_rank(folder, wrap) for wrap in ("ddp", "fsdp")}
                (folder / f"rank{rank}.json").write_text(json.dumps(found))
                dist.barrier()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes == [0] * SIZE, codes
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(SIZE)]
    return {wrap: [found[wrap] for found in ranks] for wrap in ("ddp", "fsdp")}
