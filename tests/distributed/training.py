"""Steps of the game on any number of ranks, the global batches the same on each number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

from amu_fast.audit import Auditor, ChanceCap, MemoryBank
from amu_fast.audit.gather import check_agreement
from amu_fast.audit.language import sequence_log_likelihood
from amu_fast.audit.scores import log_likelihood
from amu_fast.unlearn.objectives import GameObjective, UnlearningBatch

RATE, MOMENTUM = 0.05, 0.9
VOCABULARY, LENGTH, CLASSES = 64, 10, 3
ROWS = {"retain": (9, 8, 9), "forget": (40, 35, 13), "validation": (42, 33, 14)}
"""Rows of the whole batch at each step; the last is small, as at the end of an epoch."""
SHARES = {1: (1.0,), 2: (0.6, 1.0), 3: (0.4, 0.7, 1.0)}
"""Where each rank's slice ends."""


@dataclass(frozen=True)
class Case:
    """What is run, on one rank or on several."""

    model: str = "llama"
    dtype: torch.dtype = torch.float64
    hold: bool = True
    loop: str = "once"  # one backward; "terms": one for each term; "micro": a game in each half; "exact": one in both
    remembers: bool = False
    capped: bool = False
    clusters: bool = False
    idle: tuple[str, ...] = ("forget", "validation")  # of which rank 1 has no rows at the last step


class Insistent(Auditor):
    """Every rank must solve the same to the last bit."""

    def payoff(self, *args: Any, **options: Any) -> Any:
        payoff = super().payoff(*args, **options)
        check_agreement(payoff.params, "attacks")
        check_agreement(payoff.value.detach(), "payoff")
        return payoff


class Convolutional(nn.Module):
    """A classifier without statistics of the batch, which would be each rank's own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.Tanh())
        self.head = nn.Linear(8 * 16, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.body(pixel_values).flatten(1))


def network(case: Case) -> nn.Module:
    torch.manual_seed(0)
    if case.model == "conv":
        return Convolutional().to(case.dtype)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=LENGTH,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    # transformers' own norms round to float32, whatever the model's dtype
    for parent in (model.model, *model.model.layers):
        for name, child in parent.named_children():
            if "norm" in name:
                setattr(parent, name, nn.RMSNorm(child.weight.shape[0], config.rms_norm_eps))
    return model.to(case.dtype)


def wrapped(model: nn.Module, wrapper: str) -> nn.Module:
    if wrapper == "ddp":
        return DistributedDataParallel(model)
    if wrapper == "fsdp":
        for layer in model.model.layers if hasattr(model, "model") else [model.body]:
            fully_shard(layer)
        return fully_shard(model)
    return model


def rows_of(case: Case, name: str, rows: int, step: int) -> dict[str, Tensor]:
    """The whole batch's rows of one part."""
    seed = 100 * step + ["retain", "forget", "validation"].index(name)
    rng = torch.Generator().manual_seed(seed)
    people = {"clusters": 1000 * seed + torch.arange(rows) // 2} if case.clusters else {}
    if case.model == "conv":
        pixels = torch.randn(rows, 1, 6, 6, generator=rng, dtype=torch.float64) + 0.3 * (name == "forget")
        labels = torch.randint(CLASSES, (rows,), generator=rng)
        return {"pixel_values": pixels.to(case.dtype), "labels": labels, **people}
    ids = torch.randint(VOCABULARY // (1 + (name == "forget")), (rows, LENGTH), generator=rng)
    lengths = torch.randint(5, LENGTH + 1, (rows,), generator=rng)
    padding = torch.arange(LENGTH) >= lengths[:, None]
    labels = ids.masked_fill(padding, -100)
    labels[:, :2] = -100
    return {"input_ids": ids, "attention_mask": (~padding).long(), "labels": labels, **people}


Parts = dict[str, dict[str, Tensor]]


def whole_batch(case: Case, step: int) -> Parts:
    return {name: rows_of(case, name, rows[step], step) for name, rows in ROWS.items()}


def own(case: Case, batch: Parts, step: int, rank: int, size: int) -> Parts:
    """This rank's contiguous slices of it."""
    parts = {}
    for name, part in batch.items():
        rows = len(part["labels"])
        ends = [0, *(math.ceil(share * rows) for share in SHARES[size])]
        if step == 2 and name in case.idle and size > 1:
            ends[1] = ends[2]
        parts[name] = {k: v[ends[rank] : ends[rank + 1]] for k, v in part.items()}
    return parts


def halves(batch: Parts) -> list[Parts]:
    def half(part: dict[str, Tensor], last: int) -> dict[str, Tensor]:
        middle = (len(part["labels"]) + 1) // 2
        return {k: v[middle:] if last else v[:middle] for k, v in part.items()}

    return [{name: half(part, last) for name, part in batch.items()} for last in (0, 1)]


def objective_of(case: Case) -> GameObjective:
    auditor = Insistent(
        scores=log_likelihood if case.model == "conv" else sequence_log_likelihood,
        hold_nonmembers=case.hold,
        groups="class" if case.model == "conv" else None,
        min_rows_per_side=8,
    )
    cap = ChanceCap(decay=0.5, warmup=1) if case.capped else None
    return GameObjective(auditor, weight=2.0, every=1, cap=cap, bank=MemoryBank(50) if case.remembers else None)


def run(case: Case, wrapper: str, rank: int, size: int) -> dict[str, Any]:
    """Three steps; whole parameters and what was recorded."""
    model = wrapped(network(case), wrapper)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    objective = objective_of(case)
    history = []
    for step in range(3):
        batch = whole_batch(case, step)
        optimizer.zero_grad()
        if case.loop == "micro":
            micro = [own(case, half, step, rank, size) for half in halves(batch)]
            values = play_each(objective, model, micro, step)
        else:
            values = LOOPS[case.loop](objective, model, own(case, batch, step, rank, size), step)
        history.append(values)
        optimizer.step()
    return {
        "parameters": torch.cat([whole(p).flatten() for p in model.parameters()]),
        "history": history,
        "state": objective.state_dict(),
    }


def whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def once(objective: GameObjective, model: nn.Module, parts: Parts, step: int) -> dict[str, float]:
    terms = objective(model, UnlearningBatch(**parts, step=step))
    terms.loss.backward()
    return means(terms.values)


def each_term(objective: GameObjective, model: nn.Module, parts: Parts, step: int) -> dict[str, float]:
    values: dict[str, Tensor] = {}
    for term in objective.terms(model, UnlearningBatch(**parts, step=step)):
        if term.loss.requires_grad:  # not while the game is off
            term.loss.backward()
        values |= term.values
    return means(values)


def exact(objective: GameObjective, model: nn.Module, parts: Parts, step: int) -> dict[str, float]:
    """One game on both halves of this rank's rows; the retain rows go whole with the last one."""
    batches = [UnlearningBatch(**half, step=step) for half in halves(parts)]
    played, cotangents = objective.solve([objective.score(model, half, gradient=False) for half in batches])
    for last, (half, cotangent) in enumerate(zip(batches, cotangents, strict=True)):
        with nullcontext() if last else unsynchronised(model):
            loss = objective.replay(model, half, cotangent).loss
            if last:
                loss = loss + next(iter(objective.terms(model, UnlearningBatch(parts["retain"], step=step)))).loss
            loss.backward()
    return means(played.values)


LOOPS = {"once": once, "terms": each_term, "exact": exact}


def play_each(objective: GameObjective, model: nn.Module, micro: list[Parts], step: int) -> dict[str, float]:
    """A game of its own in each micro-batch."""
    values: dict[str, float] = {}
    for number, parts in enumerate(micro):
        with nullcontext() if parts is micro[-1] else unsynchronised(model):
            terms = objective(model, UnlearningBatch(**parts, step=step))
            (terms.loss / len(micro)).backward()
        values |= {f"{name} {number}": value for name, value in means(terms.values).items()}
    return values


def unsynchronised(model: nn.Module) -> Any:
    """Gradients stay on their rank; FSDP2 sends them each time, which sums alike."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def means(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Over ranks: what each reports of its own rows is its share of the whole."""
    numbers = torch.stack([value.double() for value in values.values()])
    if dist.is_initialized():
        dist.all_reduce(numbers)
        numbers /= dist.get_world_size()
    return dict(zip(values, numbers.tolist(), strict=True))
