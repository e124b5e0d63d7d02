"""Tokens per second of training steps of a Llama in bfloat16, with and without the game, and the peak of its memory.

    python -m amu_fast.bench.llama_steps --out FILE [--lora] [--device cuda] [--smoke]

The model comes from its configuration alone, 1.2 billion weights by default; its rows are random tokens, since neither
time nor memory depends on them. "training" steps on retain rows; "game" on the same retain rows and an auditing batch,
all of whose tokens count in its rate. Steps are interleaved; a peak is one step's, weights and moments included.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amu_fast.audit import Auditor, sequence_log_likelihood
from amu_fast.bench.records import machine, run_number
from amu_fast.bench.timing import clock_of, interleave
from amu_fast.errors import AmuFastError, BackendError
from amu_fast.report.writing import write_atomic
from amu_fast.unlearn.objectives import FineTune, GameObjective, Objective, UnlearningBatch


@dataclass(frozen=True)
class Size:
    """A Llama and its batches.

    Attributes:
        hidden, inner, layers, heads, vocabulary: of the model; embeddings are tied.
        retain, audit, length: rows of a retain batch, of either side of an auditing batch, and their tokens.
        seconds: for timing.
    """

    hidden: int = 2048
    inner: int = 8192
    layers: int = 16
    heads: int = 32
    vocabulary: int = 128_256
    retain: int = 16
    audit: int = 32
    length: int = 256
    seconds: float = 40.0


SMOKE = Size(hidden=16, inner=32, layers=1, heads=2, vocabulary=50, retain=4, audit=8, length=10, seconds=0.0)


def llama(size: Size, device: str, *, lora: bool, seed: int = 0) -> nn.Module:
    """Random weights in bfloat16 on the device; with `lora` adapters of rank 16 on every linear layer train alone."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise BackendError("needs transformers; pip install 'amu-fast[hf]'") from error
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=max(1, size.heads // 4),
        max_position_embeddings=size.length,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model: Any = LlamaForCausalLM(config)
    model = model.to(torch.bfloat16)
    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.gradient_checkpointing_enable()
    if lora:
        model.enable_input_require_grads()
    return model.train()


class Steps:
    """Whole optimiser steps on random rows that rotate."""

    def __init__(self, model: nn.Module, size: Size, device: str, seed: int = 0) -> None:
        self.model, self.size, self.device = model, size, device
        self.rng = torch.Generator().manual_seed(seed)
        weights = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(weights, lr=1e-6, fused=True)

    def part(self, rows: int) -> dict[str, Tensor]:
        """Rows whose tokens all count."""
        ids = torch.randint(self.size.vocabulary, (rows, self.size.length), generator=self.rng).to(self.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    def step(self, objective: Objective) -> Callable[[int], None]:
        """One step on a fixed batch; the argument is the number of the call."""
        size = self.size
        parts: dict[str, Any] = {
            "retain": self.part(size.retain),
            "forget": self.part(size.audit),
            "validation": self.part(size.audit),
        }

        def run(_: int) -> None:
            self.optimiser.zero_grad()
            for term in objective.terms(self.model, UnlearningBatch(**parts)):
                if term.loss.requires_grad:
                    term.loss.backward()
            self.optimiser.step()

        return run


def measure(size: Size, device: str, *, lora: bool) -> dict[str, Any]:
    """Rates and peaks."""
    model = llama(size, device, lora=lora)
    steps = Steps(model, size, device)
    game = GameObjective(Auditor(scores=sequence_log_likelihood), weight=1.0, every=1, cap=None)
    runs = {"training": steps.step(FineTune()), "game": steps.step(game)}
    peaks = {name: _peak(run, device) for name, run in runs.items()}
    times = interleave(runs, size.seconds, clock_of(torch.device(device)))
    tokens = {"training": size.retain * size.length, "game": (size.retain + 2 * size.audit) * size.length}
    figures = {
        name: {
            **asdict(times[name]),
            "tokens": tokens[name],
            "tokens_per_second": tokens[name] / times[name].median,
            "peak_bytes": peaks[name],
        }
        for name in runs
    }
    return {
        "run": run_number(),
        "size": asdict(size),
        "lora": lora,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "steps": figures,
        "machine": json.loads(machine(torch.device(device), {})),
    }


def _peak(run: Callable[[int], None], device: str) -> int | None:
    """Of the second step, the moments being there; None without a GPU."""
    run(0)
    if torch.device(device).type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run(1)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the record, JSON")
    parser.add_argument("--lora", action="store_true", help="train adapters alone")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true", help="a tiny model: tries the plumbing")
    options = parser.parse_args(arguments)
    try:
        record = measure(SMOKE if options.smoke else Size(), options.device, lora=options.lora)
    except AmuFastError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_atomic(options.out, (json.dumps(record, indent=1) + "\n").encode())
    for name, figures in record["steps"].items():
        peak = figures["peak_bytes"]
        shown = "" if peak is None else f", peak {peak / 2**30:.1f} GiB"
        print(f"{name:10}{figures['tokens_per_second']:12.0f} tokens/s{shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
