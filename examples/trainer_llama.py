"""Unlearn authors with transformers' Trainer: all weights, or adapters alone.

    pip install -e ".[hf]"
    python examples/trainer_llama.py                   # --quick: seconds; --lora: adapters only (needs peft)
    torchrun --nproc-per-node 2 examples/trainer_llama.py
    ... --resume                                       # goes on from the latest checkpoint

A small Llama learns what is asked about fictitious authors by heart, then forgets some of them. It stops as soon as an
attack against authors whom the game never saw finds no more; authors that nothing has looked at are the last audit.
With --lora a new adapter learns the authors and unlearns them again: the base model has never seen them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from amu_fast.experiments.language.authors import synth_authors
from amu_fast.experiments.language.models import tiny_llama
from amu_fast.experiments.language.tokens import WordTokenizer, encode_pairs
from amu_fast.integrations import Audit, AuditCallback, EarlyStop, UnlearnDatasets, UnlearnTrainer
from amu_fast.unlearn.objectives import FineTune, GameObjective, Objective

SIZES, QUICK = (25, 64, 400, 120), (8, 32, 60, 16)
"""Authors of each part, the model's width, steps of learning and of unlearning."""

PARTS = {"forget": (0, 1), "validation": (1, 3), "test": (3, 4), "retain": (4, 6)}


def corpus(authors: int) -> tuple[UnlearnDatasets, int]:
    """Rows of some authors to forget, of twice as many for the game and for stopping, of others to retain; words."""
    rows = synth_authors(6 * authors, questions=8, seed=0)
    tokenizer = WordTokenizer.build(text for row in rows for text in (row.question, row.answer))
    parts = {
        name: unpadded(encode_pairs([row for row in rows if a <= row.author // authors < b], tokenizer))
        for name, (a, b) in PARTS.items()
    }
    return UnlearnDatasets(**parts).with_tune(), len(tokenizer)


def unpadded(part: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Rows as a data set has them; the trainer pads each batch to its own longest row."""
    found = []
    for k, mask in enumerate(part["attention_mask"].bool()):
        sequences = {name: part[name][k][mask] for name in ("input_ids", "labels")}
        found.append({**sequences, "clusters": part["clusters"][k]})
    return found


def adapted(model: nn.Module) -> nn.Module:
    """The model with an adapter at every linear layer."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))


def train(
    model: nn.Module, splits: UnlearnDatasets, objective: Objective, folder: Path, audits: Sequence[Any], **options: Any
) -> UnlearnTrainer:
    """A trainer whose run is over."""
    resume = options.pop("resume", False)
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=16,
        lr_scheduler_type="constant",
        save_total_limit=2,
        report_to=[],
        use_cpu=not torch.accelerator.is_available(),
        disable_tqdm=True,
        seed=0,
        **options,
    )
    trainer = UnlearnTrainer(
        model, args, splits=splits, objective=objective, audit_batch_size=48, callbacks=list(audits)
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def main(arguments: list[str] | None = None) -> dict[str, Audit]:
    """Memorise, forget, and audit before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/trainer_llama"), help="folder of checkpoints and report")
    parser.add_argument("--lora", action="store_true", help="train adapters only")
    parser.add_argument("--quick", action="store_true", help="a smaller model and fewer rows")
    parser.add_argument("--resume", action="store_true", help="go on from the latest checkpoint")
    options = parser.parse_args(arguments)
    authors, hidden, learning, steps = QUICK if options.quick else SIZES

    torch.manual_seed(0)
    splits, words = corpus(authors)
    model: nn.Module = tiny_llama(words, hidden)
    quietly = {"logging_strategy": "no", "save_strategy": "no"}
    if options.lora:
        # a base model that speaks the language already and knows none of the authors to forget
        train(model, splits, FineTune(), options.out / "base", (), max_steps=learning, learning_rate=1e-2, **quietly)
        model, learning = adapted(model), 2 * learning
    if not options.resume:
        everything = UnlearnDatasets([*splits.forget, *splits.retain], splits.forget, splits.validation)
        learned = options.out / "learned"
        train(model, everything, FineTune(), learned, (), max_steps=learning, learning_rate=1e-2, **quietly)

    # fixed before the run; with so few authors a smaller margin than .15 cannot be shown (docs/statistics.md S7)
    stop = AuditCallback(every=4, against="tune", margin=0.15, stop=EarlyStop())
    last = AuditCallback(every=None, against="test", margin=0.15)
    trainer = train(
        model,
        splits,
        GameObjective(weight=5.0, every=2),
        options.out,
        (stop, last),
        max_steps=steps,
        learning_rate=1e-2 if options.lora else 5e-3,
        logging_steps=10,
        save_steps=8,
        activation_checkpointing=options.lora,
        resume=options.resume,
    )
    found = {"before": trainer.audits[0], "after": trainer.audits[-2], "test": trainer.audits[-1]}
    if trainer.is_world_process_zero():
        for name, audit in found.items():
            interval = f"[{audit.auc.low:.3f}, {audit.auc.high:.3f}]"
            print(
                f"{name:>6}: step {audit.step}, AUC {audit.auc.value:.3f} {interval}, log-likelihoods {audit.gap:+.3f}"
            )
    return found


if __name__ == "__main__":
    main()
