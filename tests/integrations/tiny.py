"""A Llama of a few thousand weights, rows for it, and trainers of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from amu_fast.audit import Auditor
from amu_fast.audit.language import sequence_log_likelihood
from amu_fast.integrations import UnlearnDatasets, UnlearnTrainer
from amu_fast.unlearn.objectives import GameObjective

VOCABULARY = 40


def rows(count: int, seed: int, *, people: int | None = None) -> list[dict[str, Any]]:
    """Sequences of 4 to 9 tokens of which the first two do not count."""
    rng = torch.Generator().manual_seed(seed)
    found = []
    for row in range(count):
        length = int(torch.randint(4, 10, (1,), generator=rng))
        ids = torch.randint(3, VOCABULARY, (length,), generator=rng)
        labels = ids.clone()
        labels[:2] = -100
        found.append(
            {"input_ids": ids, "labels": labels, "clusters": (people or 1000) * seed + row % (people or count)}
        )
    return found


def splits(**parts: Any) -> UnlearnDatasets:
    given = {"retain": rows(21, 1), "forget": rows(24, 2), "validation": rows(26, 3), "test": rows(20, 4)}
    return UnlearnDatasets(**{**given, "tune": rows(22, 5), **parts})


def llama(dropout: float = 0.0, **options: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        attention_dropout=dropout,
        pad_token_id=0,
        **options,
    )
    return LlamaForCausalLM(config)


def arguments(folder: Path | str, **options: Any) -> TrainingArguments:
    given = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "logging_steps": 2,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
    }
    return TrainingArguments(output_dir=str(folder), **{**given, **options})


def game(**options: Any) -> GameObjective:
    auditor = Auditor(scores=sequence_log_likelihood)
    return GameObjective(auditor, **{"weight": 3.0, "every": 2, "cap": None, **options})


def trainer(
    folder: Path | str, model: Any = None, *, options: dict[str, Any] | None = None, **given: Any
) -> UnlearnTrainer:
    given = {"splits": splits(), "objective": game(), "audit_batch_size": 8, **given}
    return UnlearnTrainer(llama() if model is None else model, arguments(folder, **(options or {})), **given)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def plain_sgd(model: torch.nn.Module) -> tuple[Any, Any]:
    """Steps whose length is the gradient."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


def update(folder: Path | str, accumulation: int, ranks: int, *, exact: bool, hold: bool = True) -> torch.Tensor:
    """What one step of gradient descent of size 1 adds to the weights, in float64: 8 retain rows, 16 a side."""
    model = llama().double()
    before = weights(model)
    micro = accumulation * ranks
    taught = trainer(
        folder,
        model,
        options={
            "max_steps": 1,
            "per_device_train_batch_size": 8 // micro,
            "gradient_accumulation_steps": accumulation,
            "max_grad_norm": 0.0,
            "ddp_backend": "gloo" if ranks > 1 else None,
        },
        objective=GameObjective(
            Auditor(scores=sequence_log_likelihood, hold_nonmembers=hold), weight=3.0, every=2, cap=None
        ),
        audit_batch_size=16 // accumulation,
        exact_accumulation=exact,
        optimizers=plain_sgd(model),
    )
    taught.train()
    return weights(model) - before
