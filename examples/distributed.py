"""Unlearn authors on several processes: every rank scores its rows, and all solve the same game on the rows of all.

    pip install -e ".[hf]"
    torchrun --standalone --nproc-per-node 2 examples/distributed.py           # DistributedDataParallel
    torchrun --standalone --nproc-per-node 2 examples/distributed.py --fsdp    # fully_shard: parameters are sharded
    python examples/distributed.py                                             # one process

A small Llama learns what is asked about fictitious authors by heart and then forgets some of them. The numbers are the
same on 1, 2 and 3 processes to rounding: a rank's rows are a slice of the same batches. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from amu_fast.experiments.language.authors import synth_authors
from amu_fast.experiments.language.models import tiny_llama
from amu_fast.experiments.language.tokens import WordTokenizer, encode_pairs
from amu_fast.unlearn.objectives import FineTune, GameObjective, Objective, UnlearningBatch
from amu_fast.unlearn.streams import generator

Part = Mapping[str, Tensor]
ROWS = {"retain": 30, "forget": 40, "validation": 40}
"""Of the whole batch of a step."""


def join() -> tuple[int, int, torch.device]:
    """Rank, ranks and device. A rank that waits longer than the timeout for another ends with an error."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if "RANK" not in os.environ:
        return 0, 1, device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=120))
    return dist.get_rank(), dist.get_world_size(), device


def wrap(model: nn.Module, ranks: int, fsdp: bool) -> nn.Module:
    """The model as it is on one rank; replicated, or sharded layer by layer, on several."""
    if ranks == 1:
        return model
    if not fsdp:
        return DistributedDataParallel(model)
    for layer in model.model.layers:
        fully_shard(layer)
    return fully_shard(model)


def corpus(authors: int, tokenizer: WordTokenizer, device: torch.device) -> dict[str, Part]:
    """Rows of `authors` authors to forget, of as many that no model sees, and of twice as many to retain."""
    rows = synth_authors(4 * authors, questions=8, seed=0)
    numbers = {"forget": (0, 1), "validation": (1, 2), "retain": (2, 4)}
    return {
        name: {
            key: tensor.to(device)
            for key, tensor in encode_pairs(
                [row for row in rows if start <= row.author // authors < end], tokenizer, 64
            ).items()
        }
        for name, (start, end) in numbers.items()
    }


def slice_of(part: Part, size: int, name: str, step: int, rank: int, ranks: int) -> Part:
    """This rank's slice of a batch that the name and the step decide, the same on every rank."""
    rows = torch.randperm(len(part["labels"]), generator=generator(step, name))[:size]
    mine = rows[rank * size // ranks : (rank + 1) * size // ranks]
    return {key: tensor[mine.to(tensor.device)] for key, tensor in part.items()}


def measures(model: nn.Module) -> tuple[float, float]:
    """The norm of all parameters and their mean cosine: the same model has the same numbers, however it is sharded."""
    whole = [getattr(p.detach(), "full_tensor", p.detach)() for p in model.parameters()]
    flat = torch.cat([p.double().flatten() for p in whole])
    return float(flat.norm()), float((1e3 * flat).cos().mean())


def main(arguments: list[str] | None = None) -> dict[str, list[float]]:
    """The payoff of each auditing step and measures of the parameters in the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fsdp", action="store_true", help="shard the parameters instead of copying them")
    parser.add_argument("--steps", type=int, default=20, help="steps of unlearning")
    options = parser.parse_args(arguments)
    rank, ranks, device = join()
    found = unlearn(rank, ranks, device, options.fsdp, options.steps)
    if ranks > 1:
        gc.collect()  # a wrapper that outlives its group may wait for ever for gloo's threads
        dist.destroy_process_group()
    return found


def unlearn(rank: int, ranks: int, device: torch.device, fsdp: bool, steps: int) -> dict[str, list[float]]:
    """Memorise, then play."""
    torch.manual_seed(0)  # the same first weights everywhere
    tokenizer = WordTokenizer.closed()
    parts = corpus(6, tokenizer, device)
    both = {key: torch.cat([parts["forget"][key], parts["retain"][key]]) for key in parts["forget"]}
    model = wrap(tiny_llama(len(tokenizer), hidden=32).to(device), ranks, fsdp)

    def train(objective: Objective, source: Mapping[str, Part], count: int, rate: float) -> list[float]:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        payoffs = []
        for step in range(count):
            drawn = {
                name: slice_of(source[name], ROWS[name], name, step, rank, ranks) for name in objective.needs(step)
            }
            terms = objective(model, UnlearningBatch(**drawn, step=step))
            optimizer.zero_grad()
            terms.loss.backward()
            optimizer.step()
            if "payoff" in terms.values:
                payoffs.append(float(terms.values["payoff"]))
                if rank == 0:
                    print(f"step {step:>3}  payoff {payoffs[-1]:+.6f}", flush=True)
        return payoffs

    train(FineTune(), {"retain": both}, 3 * steps, rate=0.3)
    payoffs = train(GameObjective(weight=2.0, every=2), parts, steps, rate=0.1)
    norm, cosine = measures(model)
    if rank == 0:
        print(f"parameters  norm {norm:.5f}  mean cosine {cosine:+.5f}", flush=True)
    return {"payoffs": payoffs, "parameters": [norm, cosine]}


if __name__ == "__main__":
    main()
