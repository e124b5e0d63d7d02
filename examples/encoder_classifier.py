"""Unlearn with classifiers of transformers: a BERT-like encoder on text, ViT and ResNet on images.

    pip install -e ".[hf]"
    python examples/encoder_classifier.py              # --quick: seconds; --model bert, vit or resnet alone

Each learns its rows by heart and then forgets some of them, all through the same class. The encoder is told on which
of four shelves an author stands, which nobody can know of an author not met; the images are scikit-learn's digits, a
fifth of them with a wrong label. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from amu_fast.audit import Auditor, confidence
from amu_fast.experiments.language.authors import synth_authors
from amu_fast.experiments.language.tokens import WordTokenizer
from amu_fast.integrations import Audit, AuditCallback, UnlearnDatasets, UnlearnTrainer
from amu_fast.unlearn.objectives import FineTune, GameObjective, Objective

SIZES, QUICK = (240, 300, 80), (120, 60, 16)
"""Rows of the forget part, steps of learning and of unlearning."""

SHELVES = 4


def sentences(authors: int) -> tuple[UnlearnDatasets, int]:
    """What is asked about authors, with a shelf drawn for each author; and the number of words."""
    rows = synth_authors(6 * authors, questions=6, seed=0)
    tokenizer = WordTokenizer.build(row.question for row in rows)
    shelves = torch.randint(SHELVES, (6 * authors,), generator=torch.Generator().manual_seed(0)).tolist()
    cut = {"forget": (0, 1), "validation": (1, 3), "test": (3, 4), "retain": (4, 6)}
    parts = {
        name: [
            {
                "input_ids": tokenizer(row.question, add_special_tokens=True)["input_ids"],
                "labels": shelves[row.author],
                "clusters": row.author,
            }
            for row in rows
            if a <= row.author // authors < b
        ]
        for name, (a, b) in cut.items()
    }
    return UnlearnDatasets(**parts).with_tune(), len(tokenizer)


def images(rows: int) -> UnlearnDatasets:
    """Digits of 8 × 8 pixels, a fifth of the labels wrong."""
    data, rng = load_digits(), torch.Generator().manual_seed(0)
    order = torch.randperm(len(data.target), generator=rng)
    labels = torch.tensor(data.target)[order]
    wrong = torch.rand(len(labels), generator=rng) < 0.2
    labels = torch.where(wrong, torch.randint(10, labels.shape, generator=rng), labels).tolist()
    pixels = torch.tensor(data.images, dtype=torch.float32)[order].unsqueeze(1) / 16
    ends = {"retain": (0, 2), "forget": (2, 3), "validation": (3, 5), "test": (5, 6)}
    return UnlearnDatasets(**{
        name: [{"pixel_values": pixels[k], "labels": labels[k]} for k in range(a * rows, b * rows)]
        for name, (a, b) in ends.items()
    }).with_tune()  # fmt: skip


def bert(size: int) -> tuple[nn.Module, UnlearnDatasets]:
    """An encoder of two layers, and text."""
    splits, words = sentences(size // 6)
    config = BertConfig(
        vocab_size=words,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
        num_labels=SHELVES,
        pad_token_id=WordTokenizer.pad_token_id,
    )
    return BertForSequenceClassification(config), splits


def vit(size: int) -> tuple[nn.Module, UnlearnDatasets]:
    """A transformer of two layers on patches of 2 × 2, and digits."""
    config = ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
    )
    return ViTForImageClassification(config), images(size)


def resnet(size: int) -> tuple[nn.Module, UnlearnDatasets]:
    """Two stages with batch-norm, and digits."""
    config = ResNetConfig(
        num_channels=1, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=10
    )
    return ResNetForImageClassification(config), images(size)


MODELS: dict[str, Callable[[int], tuple[nn.Module, UnlearnDatasets]]] = {"bert": bert, "vit": vit, "resnet": resnet}


def train(
    model: nn.Module, splits: UnlearnDatasets, objective: Objective, folder: Path, steps: int, rate: float, *audits: Any
) -> UnlearnTrainer:
    """A trainer whose run is over."""
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=rate,
        lr_scheduler_type="constant",
        per_device_train_batch_size=32,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        use_cpu=not torch.accelerator.is_available(),
        disable_tqdm=True,
        seed=0,
    )
    trainer = UnlearnTrainer(
        model, args, splits=splits, objective=objective, audit_batch_size=64, callbacks=list(audits)
    )
    trainer.train()
    return trainer


def forget(name: str, folder: Path, size: int, learning: int, steps: int) -> list[Audit]:
    """Learn all, forget some; audits of the original and of the result."""
    torch.manual_seed(0)
    model, splits = MODELS[name](size)
    everything = UnlearnDatasets([*splits.forget, *splits.retain], splits.forget, splits.validation)
    train(model, everything, FineTune(), folder / "learned", learning, 5e-3)
    # the probability of the label is what the auditor sees; no dropout and frozen statistics while it looks
    objective = GameObjective(Auditor(scores=confidence), weight=4.0, every=2)
    return train(model, splits, objective, folder, steps, 2e-3, AuditCallback(every=None)).audits


def main(arguments: list[str] | None = None) -> dict[str, list[Audit]]:
    """Every model, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/encoder_classifier"), help="folder of the reports")
    parser.add_argument("--model", choices=sorted(MODELS), help="one model alone")
    parser.add_argument("--quick", action="store_true", help="fewer rows and steps")
    options = parser.parse_args(arguments)
    size, learning, steps = QUICK if options.quick else SIZES
    found = {}
    for name in [options.model] if options.model else MODELS:
        found[name] = forget(name, options.out / name, size, learning, steps)
        before, after = (f"{a.auc.value:.3f} [{a.auc.low:.3f}, {a.auc.high:.3f}]" for a in found[name])
        print(f"{name:>6}: AUC of the loss attack {before} before, {after} after")
    return found


if __name__ == "__main__":
    main()
