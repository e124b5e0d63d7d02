"""TOFU from end to end: fine-tune on authors, unlearn some of them by four methods, retrain, and compare.

    amu-fast data synth-authors --out authors && python examples/tofu.py --data-dir authors
    python examples/tofu.py --data-dir TOFU --model smollm2 --forget forget01
    python examples/tofu.py --quick                    # its own small authors, a small model, seconds

Authors that no model ever sees are held out: a third for the game, a third for your own tuning (unused here), a third
for the audit. Prints a table and writes OUT/tofu.json. The options are not tuned: the table shows how to measure, and
is no comparison of methods.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amu_fast.audit.delong import auc_difference, auc_interval
from amu_fast.audit.metrics import auc
from amu_fast.audit.roc import tpr_interval
from amu_fast.errors import AmuFastError, DataError, SolveError
from amu_fast.experiments.language.authors import AuthorRow
from amu_fast.experiments.language.data import Batches
from amu_fast.experiments.language.models import smollm2, tiny_llama
from amu_fast.experiments.language.tofu import TofuSplits, TofuTask, tofu_folder
from amu_fast.experiments.language.tofu_files import synthetic_tofu, write_files
from amu_fast.experiments.language.tofu_metrics import forget_quality, model_utility, score_answers, tofu_metrics
from amu_fast.experiments.language.tokens import WordTokenizer, encode_pairs
from amu_fast.report.provenance import Provenance, plain
from amu_fast.report.writing import write_atomic
from amu_fast.unlearn.objectives import (
    FineTune,
    GameObjective,
    GradientAscent,
    GradientDifference,
    Npo,
    Objective,
    UnlearningBatch,
    summed_log_likelihoods,
)

METHODS: dict[str, Callable[[], Objective]] = {
    "ga": GradientAscent,
    "graddiff": GradientDifference,
    "npo": Npo,
    "game": lambda: GameObjective(weight=5.0, every=2),
}
FPR = 0.05


@dataclass(frozen=True)
class Options:
    """What a run depends on besides its data.

    Attributes:
        model: "tiny" or "smollm2".
        forget: Name of the forget file.
        held_out: Authors taken out of retain; not used if the folder has heldout.json.
        hidden: Width of the tiny model.
        epochs: Passes of a fine-tuning.
        lr: Its largest rate.
        unlearn_epochs: Passes over the forget rows.
        unlearn_lr: The largest rate of unlearning.
        batch: Rows a step.
        audit_batch: Forget rows and held-out rows of an auditing step.
        rows: Rows of each part that TOFU's metrics look at, the first ones.
        new_tokens: Where a generated answer is cut off.
        seed: Of everything.
    """

    model: str = "tiny"
    forget: str = "forget10"
    held_out: int = 60
    hidden: int = 128
    epochs: float = 10.0
    lr: float = 2e-3
    unlearn_epochs: float = 5.0
    unlearn_lr: float = 5e-4
    batch: int = 16
    audit_batch: int = 32
    rows: int = 400
    new_tokens: int = 64
    seed: int = 0


SMOLLM2 = Options("smollm2", epochs=5.0, lr=1e-4, unlearn_lr=2e-5, rows=100)
QUICK = Options(hidden=32, epochs=10.0, lr=1e-2, unlearn_epochs=4.0, unlearn_lr=4e-3, rows=12, new_tokens=8)


def descend(
    model: nn.Module, objective: Objective, parts: Mapping[str, Mapping[str, Tensor]], steps: int, lr: float, o: Options
) -> None:
    """The training loop, in place: nothing in it knows which method it runs."""
    weights = list(model.parameters())
    optimiser = torch.optim.AdamW(weights, lr=lr, weight_decay=0.01)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, 1.0) * (1.0 - step / steps)
    )
    sizes = {"retain": o.batch, "forget": o.batch, "validation": o.batch}
    if isinstance(objective, GameObjective):
        sizes |= {"forget": o.audit_batch, "validation": o.audit_batch}
    streams = {name: Batches(part, sizes[name], o.seed, name, distinct=True) for name, part in parts.items()}

    def rows(name: str) -> dict[str, Tensor]:
        return {key: tensor.to(weights[0].device) for key, tensor in streams[name].next().items()}

    torch.manual_seed(o.seed)
    model.train()
    for step in range(steps):
        batch = UnlearningBatch(**{name: rows(name) for name in objective.needs(step)}, step=step)
        optimiser.zero_grad()
        for term in objective.terms(model, batch):
            if term.loss.requires_grad:
                term.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
        if not bool(norm.isfinite()):
            raise SolveError(f"step {step} of {objective.name} has a gradient of norm {float(norm)}; lower unlearn_lr")
        optimiser.step()
        schedule.step()
    model.eval()


def fine_tuned(base: nn.Module, rows: Sequence[AuthorRow], tokenizer: Any, o: Options) -> nn.Module:
    """A copy of the base that has learned these rows."""
    model = deepcopy(base)
    steps = max(1, round(o.epochs * len(rows) / o.batch))
    descend(model, FineTune(), {"retain": encode_pairs(rows, tokenizer)}, steps, o.lr, o)
    return model


def unlearned(original: nn.Module, name: str, splits: TofuSplits, tokenizer: Any, o: Options) -> nn.Module:
    """A copy of the original that one method has worked on."""
    rows = {"retain": splits.retain, "forget": splits.forget, "validation": splits.game}
    parts = {part: encode_pairs(rows, tokenizer) for part, rows in rows.items()}
    if name == "npo":
        device, forget = next(original.parameters()).device, parts["forget"]
        blocks = [
            {key: tensor[index].to(device) for key, tensor in forget.items()}
            for index in torch.arange(len(splits.forget)).split(o.batch)
        ]
        forget["original"] = torch.cat([summed_log_likelihoods(original, block).cpu() for block in blocks])
    model = deepcopy(original)
    descend(
        model, METHODS[name](), parts, max(2, round(o.unlearn_epochs * len(splits.forget) / o.batch)), o.unlearn_lr, o
    )
    return model


def audit_scores(model: nn.Module, splits: TofuSplits, tokenizer: Any, o: Options) -> tuple[np.ndarray, np.ndarray]:
    """Mean log p of the answers of forget rows and of held-out test rows; higher = member."""
    members, others = (score_answers(model, rows, tokenizer, o.batch)[0] for rows in (splits.forget, splits.test))
    return members, others


def by_author(scores: np.ndarray, rows: Sequence[AuthorRow]) -> list[float]:
    """Each author's mean: rows of one author are no independent witnesses (S4)."""
    authors = np.array([row.author for row in rows])
    return [float(scores[authors == author].mean()) for author in np.unique(authors)]


def measured(models: Mapping[str, nn.Module], splits: TofuSplits, tokenizer: Any, o: Options) -> dict[str, Any]:
    """TOFU's metrics and the audit of every model, by name."""
    perturbed = {part: rows[: o.rows] for part, rows in splits.perturbed.items()}
    clusters = tuple([row.author for row in rows] for rows in (splits.forget, splits.test))
    scores = {name: audit_scores(model, splits, tokenizer, o) for name, model in models.items()}
    tofu = {
        name: tofu_metrics(model, perturbed, tokenizer, batch_size=o.batch, max_new_tokens=o.new_tokens)
        for name, model in models.items()
    }
    record = {}
    for name, parts in tofu.items():
        members, others = scores[name]
        authors = by_author(members, splits.forget), by_author(others, splits.test)
        record[name] = {
            "parts": {part: metrics.figures() for part, metrics in parts.items()},
            "utility": model_utility(parts),
            "forget_quality": forget_quality(parts["forget"].ratios, tofu["retrain"]["forget"].ratios),
            "auc": float(auc(members, others)),
            "tpr_by_author": asdict(tpr_interval(*authors, FPR)),
        }
        if splits.cluster_claims:
            record[name]["auc_interval"] = asdict(auc_interval(members, others, clusters=clusters))
            record[name]["auc_less_retrain"] = asdict(
                auc_difference(scores[name], scores["retrain"], level=0.90, clusters=clusters)
            )
    return record


def table(record: Mapping[str, Any]) -> str:
    """The figures side by side."""
    lines = [
        f"{'':10}{'utility':>8}{'p(forget)':>10}{'ROUGE':>7}{'truth':>7}{'extract':>8}{'KS p':>9}{'AUC':>6}"
        f"{'  95 % by author':>18}{'TPR':>6}"
    ]
    for name, figures in record.items():
        forget, interval = figures["parts"]["forget"], figures.get("auc_interval")
        shown = f"{interval['low']:.2f} ... {interval['high']:.2f}" if interval else "too few authors"
        lines.append(
            f"{name:10}{figures['utility']:8.3f}{forget['probability']:10.3f}{forget['rouge']:7.2f}"
            f"{forget['truth_ratio']:7.2f}{forget['extraction']:8.2f}{figures['forget_quality']:9.2g}"
            f"{figures['auc']:6.2f}{shown:>18}{figures['tpr_by_author']['value']:6.2f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 2 for unusable input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of TOFU's files; also read from AMU_FAST_DATA")
    parser.add_argument("--model", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--forget", default="forget10", help="forget01, forget10, ...")
    parser.add_argument("--methods", nargs="+", choices=sorted(METHODS), default=list(METHODS))
    parser.add_argument("--epochs", type=float, help="passes of every fine-tuning")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/tofu"))
    parser.add_argument("--quick", action="store_true", help="a small model; small authors too if no folder is named")
    a = parser.parse_args(arguments)
    o = QUICK if a.quick else SMOLLM2 if a.model == "smollm2" else Options()
    try:
        epochs = o.epochs if a.epochs is None else a.epochs
        if not epochs > 0.0:
            raise DataError(f"--epochs must be > 0, got {epochs}; {o.epochs:g} is the default")
        record = run(replace(o, model=a.model, forget=a.forget, seed=a.seed, epochs=epochs), a)
    except AmuFastError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    path = write_atomic(a.out / "tofu.json", json.dumps(record, indent=1).encode())
    print(f"{table(record['models'])}\n{path}")
    return 0


def run(o: Options, a: argparse.Namespace) -> dict[str, Any]:
    """Everything between the options and the record."""
    data_dir = a.data_dir
    if a.quick and data_dir is None:
        data_dir = a.out / "authors"
        write_files(data_dir, synthetic_tofu(authors=100, questions=2, held_out=30, seed=o.seed))
    splits = TofuTask(o.forget, o.held_out, o.seed).splits(data_dir)
    base, tokenizer = base_model(splits, o)
    base.to(a.device)
    again = replace(o, seed=o.seed + 1)
    models: dict[str, nn.Module] = {}
    for name, rows, options in (
        ("original", splits.train, o), ("retrain", splits.retain, o), ("retrain 2", splits.retain, again)
    ):  # fmt: skip
        with told(f"{name}: {options.epochs:g} epochs of {len(rows)} rows"):
            models[name] = fine_tuned(base, rows, tokenizer, options)
    for name in a.methods:
        with told(f"{name}: {o.unlearn_epochs:g} epochs of {len(splits.forget)} rows to forget"):
            models[name] = unlearned(models["original"], name, splits, tokenizer, o)
    folder = tofu_folder(data_dir)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.json"))}
    with told(f"metrics and audits of {len(models)} models"):
        found = measured(models, splits, tokenizer, o)
    return {
        "options": asdict(o),
        "methods": {name: plain(METHODS[name]()) for name in a.methods},
        "rows": {part: len(getattr(splits, part)) for part in ("retain", "forget", "game", "tune", "test")},
        "cluster_claims": splits.cluster_claims,
        "models": found,
        "provenance": {**plain(Provenance.collect(o)), "data": hashes},
    }


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say on the standard error stream what begins, and what it took."""
    print(what, end=" ... ", file=sys.stderr, flush=True)
    began = time.perf_counter()
    yield
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


def base_model(splits: TofuSplits, o: Options) -> tuple[nn.Module, Any]:
    """The model before any author, and its tokenizer."""
    if o.model == "smollm2":
        return smollm2()
    rows = [
        row
        for part in (splits.train, splits.game, splits.tune, splits.test, *splits.perturbed.values())
        for row in part
    ]
    tokenizer = WordTokenizer.build(
        text for row in rows for text in (row.question, row.answer, row.paraphrased_answer, *row.perturbed_answers)
    )
    torch.manual_seed(o.seed)
    return tiny_llama(len(tokenizer), o.hidden, positions=512), tokenizer


if __name__ == "__main__":
    raise SystemExit(main())
