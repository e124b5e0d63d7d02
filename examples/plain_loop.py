"""Unlearn authors in a plain training loop: one more term in the loss, and checkpoints to go on from.

    pip install -e ".[hf]"
    python examples/plain_loop.py              # --quick: seconds
    python examples/plain_loop.py --resume     # goes on from the latest checkpoint of a run that was stopped

A small Llama learns what is asked about fictitious authors by heart. Then it has to forget some of them: its loss gets
the payoff of an auditor who tells forget rows from rows of authors that no model ever saw. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

import amu_fast.unlearn as au
from amu_fast.audit.language import sequence_log_likelihood
from amu_fast.experiments.language.authors import synth_authors
from amu_fast.experiments.language.models import tiny_llama
from amu_fast.experiments.language.tokens import WordTokenizer, encode_pairs
from amu_fast.unlearn.checkpoint import (
    CheckpointStore,
    capture_rng,
    model_state,
    optimizer_state,
    restore,
    restore_rng,
)
from amu_fast.unlearn.objectives import audit_mode
from amu_fast.unlearn.streams import generator

Part = Mapping[str, Tensor]
INPUTS = ("input_ids", "attention_mask", "labels")


def corpus(authors: int) -> tuple[dict[str, Part], int]:
    """Rows of some authors to forget, of as many for the game and for the audit, of twice as many to retain; words."""
    rows = synth_authors(5 * authors, questions=8, seed=0)
    tokenizer = WordTokenizer.build(text for row in rows for text in (row.question, row.answer))
    whose = {"forget": (0, 1), "validation": (1, 2), "test": (2, 3), "retain": (3, 5)}
    parts = {
        name: encode_pairs([row for row in rows if a <= row.author // authors < b], tokenizer, 48)
        for name, (a, b) in whose.items()
    }
    return parts, len(tokenizer)


def draw(part: Part, size: int, name: str, step: int) -> Part:
    """Rows that the name and the step decide: the step is all that a checkpoint has to know of the sampler."""
    index = torch.randperm(len(part["labels"]), generator=generator(step, name))[:size]
    return {key: tensor[index] for key, tensor in part.items()}


def loss_of(model: nn.Module, part: Part) -> Tensor:
    """Mean negative log-likelihood of the answers' tokens."""
    return model(**{key: part[key] for key in INPUTS}).loss


def score(model: nn.Module, part: Part) -> Tensor:
    """(n, 1) mean log p of each answer, higher = member."""
    with audit_mode(model):
        logits = model(input_ids=part["input_ids"], attention_mask=part["attention_mask"]).logits
    return sequence_log_likelihood(au.ModelOutputs(logits, part["labels"]))


def memorise(model: nn.Module, parts: Mapping[str, Part], steps: int, rate: float) -> None:
    """Train on forget and retain rows."""
    both = {key: torch.cat([parts["forget"][key], parts["retain"][key]]) for key in INPUTS}
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, draw(both, 24, "memorise", step)).backward()
        optimizer.step()


@torch.no_grad()
def measure(model: nn.Module, parts: Mapping[str, Part], auditor: au.Auditor) -> dict[str, float]:
    """What an auditor earns on forget rows against authors outside the game, and the losses."""
    members, others = score(model, parts["forget"]), score(model, parts["test"])
    clusters = parts["forget"]["clusters"], parts["test"]["clusters"]
    payoff = auditor.payoff(members, others, clusters=clusters, parts="value")
    return {
        "payoff": float(payoff.value),
        "auditor_accuracy": float(payoff.accuracy.nanmean()),
        "loss_gap": float(others.mean() - members.mean()),  # forget loss minus test loss
        "retain_loss": float(loss_of(model, parts["retain"])),
    }


def show(before: Mapping[str, float], after: Mapping[str, float]) -> None:
    """Print what was measured."""
    for name, value in before.items():
        print(f"{name:>17}: {value:+.3f} before, {after[name]:+.3f} after")


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Memorise, forget, and measure before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/plain_loop"), help="folder of the checkpoints")
    parser.add_argument("--steps", type=int, help="steps of unlearning")
    parser.add_argument("--quick", action="store_true", help="a smaller model and fewer rows")
    parser.add_argument("--resume", action="store_true", help="go on from the latest checkpoint")
    options = parser.parse_args(arguments)
    authors, hidden, learning, steps = (6, 32, 40, 15) if options.quick else (20, 64, 300, 100)
    rate = 5e-3 if options.quick else 2e-3

    torch.manual_seed(0)
    parts, words = corpus(authors)
    model = tiny_llama(words, hidden)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    auditor = au.Auditor(folds=3)
    store = CheckpointStore(options.out, config_hash=f"plain-loop-{authors}-{hidden}-{learning}")
    if store.latest() and not options.resume:
        parser.error(f"{options.out} has checkpoints of an earlier run; pass --resume, or another folder as --out")
    start = 0

    def save(step: int) -> None:
        states = {"model": model_state(model), "optimizer": optimizer_state(model, optimizer)}
        store.save(step, **states, state={"rng": capture_rng(), "before": before})

    if options.resume:
        checkpoint = store.load()
        restore(checkpoint, model, optimizer)
        restore_rng(checkpoint.state["rng"])
        start, before = checkpoint.step, checkpoint.state["before"]
    else:
        memorise(model, parts, learning, 2 * rate)
        before = measure(model, parts, auditor)
        save(0)

    for step in range(start, options.steps or steps):
        loss = loss_of(model, draw(parts["retain"], 32, "retain", step))
        if step % 2 == 0:
            forget, validation = (draw(parts[name], 48, name, step) for name in ("forget", "validation"))
            with torch.no_grad():
                nonmembers = score(model, validation)
            clusters = forget["clusters"], validation["clusters"]
            payoff = auditor.payoff(score(model, forget), nonmembers, clusters=clusters, step=step)
            loss = loss + 2.0 * payoff.value  # differentiates through the auditor's optimum
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 5 == 0:
            save(step + 1)
    after = measure(model, parts, auditor)
    show(before, after)
    return {"before": before, "after": after}


if __name__ == "__main__":
    main()
