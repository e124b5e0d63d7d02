"""Unlearn authors with Accelerate: gradient accumulation, any number of devices, checkpoints to go on from.

    pip install -e ".[hf]"
    python examples/accelerate_loop.py                 # --quick: seconds
    accelerate launch --num_processes 2 examples/accelerate_loop.py
    ... --resume                                       # goes on from the latest checkpoint

The task is that of plain_loop.py. The loss is an objective here, so another method is another line: `FineTune()`,
`GradientDifference()`, `Npo(reference=...)` in place of `GameObjective(...)`. Each micro-batch is a game of its own on
the rows of all processes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from plain_loop import INPUTS, Part, corpus, measure, memorise, show

import amu_fast.unlearn as au
from amu_fast.audit.language import sequence_log_likelihood
from amu_fast.experiments.language.models import tiny_llama
from amu_fast.unlearn.checkpoint import (
    CheckpointStore,
    capture_rng,
    model_state,
    optimizer_state,
    restore,
    restore_rng,
)
from amu_fast.unlearn.objectives import GameObjective, UnlearningBatch
from amu_fast.unlearn.streams import generator

ACCUMULATION = 2
SIZES = {"retain": 32, "forget": 48, "validation": 48}


def share(accelerator: Accelerator, part: Part, name: str, step: int) -> list[Part]:
    """This process's rows of a step, a part of them for each micro-batch: no row is twice in a step."""
    order = torch.randperm(len(part["labels"]), generator=generator(step, name))[: SIZES[name]]
    mine = order[accelerator.process_index :: accelerator.num_processes]
    return [
        {key: part[key][index].to(accelerator.device) for key in (*INPUTS, "clusters")}
        for index in mine.chunk(ACCUMULATION)
    ]


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Memorise, forget, and measure before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/accelerate_loop"), help="folder of the checkpoints")
    parser.add_argument("--steps", type=int, help="steps of unlearning")
    parser.add_argument("--quick", action="store_true", help="a smaller model and fewer rows")
    parser.add_argument("--resume", action="store_true", help="go on from the latest checkpoint")
    options = parser.parse_args(arguments)
    authors, hidden, learning, steps = (6, 32, 40, 12) if options.quick else (20, 64, 300, 100)
    rate = 5e-3 if options.quick else 2e-3

    accelerator = Accelerator(gradient_accumulation_steps=ACCUMULATION)
    set_seed(0)
    parts, words = corpus(authors)
    plain = tiny_llama(words, hidden)
    auditor = au.Auditor(folds=3, scores=sequence_log_likelihood)
    objective = GameObjective(auditor, weight=2.0, every=2, bank=au.MemoryBank(64))
    store = CheckpointStore(options.out, config_hash=f"accelerate-loop-{authors}-{hidden}-{learning}")
    if store.latest() and not options.resume:
        parser.error(f"{options.out} has checkpoints of an earlier run; pass --resume, or another folder as --out")
    start, before = 0, {}
    if not options.resume:
        memorise(plain, parts, learning, 2 * rate)  # the same on every process
        before = measure(plain, parts, auditor)
    model, optimizer = accelerator.prepare(plain, torch.optim.AdamW(plain.parameters(), lr=rate))
    if options.resume:
        checkpoint = store.load()
        restore(checkpoint, model, optimizer.optimizer)
        restore_rng(checkpoint.of_rank())
        objective.load_state_dict(checkpoint.state["objective"])
        start, before = checkpoint.step, checkpoint.state["before"]

    for step in range(start, options.steps or steps):
        needed = objective.needs(step)
        shares = {name: share(accelerator, parts[name], name, step) for name in needed}
        for micro in range(ACCUMULATION):
            batch = UnlearningBatch(**{name: shares[name][micro] for name in needed}, step=step)
            with accelerator.accumulate(model):
                for term in objective.terms(model, batch):  # one graph at a time
                    if term.loss.requires_grad:  # the game's has none while it is switched off
                        accelerator.backward(term.loss)
                optimizer.step()
                optimizer.zero_grad()
        if (step + 1) % 4 == 0:
            store.save(
                step + 1,
                model=model_state(model),
                optimizer=optimizer_state(model, optimizer.optimizer),
                state={"objective": objective.state_dict(), "before": before},
                rank_state=capture_rng(),
            )
    after = measure(accelerator.unwrap_model(model).cpu(), parts, auditor)
    if accelerator.is_main_process:
        show(before, after)
    return {"before": before, "after": after}


if __name__ == "__main__":
    main()
