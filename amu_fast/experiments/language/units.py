"""A unit of the language experiment: one population of authors, one training seed; and its trained models.

A small Llama is trained on a general corpus (the base), then fine-tuned on the authors: the original on retain and
forget authors; retrain, the floor (another retrain) and the references of the calibrated attack on the retain authors.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amu_fast.experiments.language.authors import synth_authors
from amu_fast.experiments.language.data import joined, of_clusters, take
from amu_fast.experiments.language.general import synth_general
from amu_fast.experiments.language.judge import Outputs, PartOutputs, outputs_on
from amu_fast.experiments.language.loops import AdamW, train
from amu_fast.experiments.language.models import tiny_llama
from amu_fast.experiments.language.tokens import WordTokenizer, encode_pairs, encode_texts
from amu_fast.experiments.trained import read_trained, weights_in, write_trained
from amu_fast.report.provenance import config_hash

JUDGED = ("retain", "forget", "validation", "test", "general")
LENGTH = 56
CACHE_VERSION = 1
_SEEDS_PER_UNIT = 1000


@dataclass(frozen=True)
class LanguageTask:
    """What all units share.

    Attributes:
        retain: Authors that stay.
        forget: Authors to be forgotten.
        held_out: Authors of each of V_game, V_tune and test; the model never sees them.
        questions: Rows of each author.
        general: Passages of the general corpus, and a fifth as many others for its metric.
        mixed: Of them, those that stay in the training data of every fine-tuning: they count as retain rows.
        hidden: Width of the network.
        layers: Its depth.
        base_epochs: Passes over the general corpus.
        epochs: Passes of every fine-tuning.
        base: Optimiser of the base.
        tuning: Optimiser of every fine-tuning.
        references: Models of the calibrated attack.
    """

    retain: int = 80
    forget: int = 20
    held_out: int = 20
    questions: int = 8
    general: int = 3000
    mixed: int = 320
    hidden: int = 64
    layers: int = 2
    base_epochs: float = 4.0
    epochs: float = 16.0
    base: AdamW = field(default_factory=lambda: AdamW(lr=4e-3, batch_size=32))
    tuning: AdamW = field(default_factory=lambda: AdamW(lr=3e-3, batch_size=32))
    references: int = 2

    def parts(self, seed: int) -> tuple[dict[str, dict[str, Tensor]], int]:
        """Rows of a unit, by name, and the size of the vocabulary.

        "retain", "forget", "game", "validation", "test": authors; "general", "pretraining": passages; "kept": what
        every fine-tuning keeps, retain authors and mixed passages.
        """
        return _parts(self, seed)

    @property
    def fine_tuning_samples(self) -> float:
        """Gradient samples of a retraining from the base: what budgets are shares of."""
        return self.epochs * (self.retain * self.questions + self.mixed)


@lru_cache(maxsize=2)
def _parts(task: LanguageTask, seed: int) -> tuple[dict[str, dict[str, Tensor]], int]:
    counts = {"retain": task.retain, "forget": task.forget}
    counts |= dict.fromkeys(("game", "validation", "test"), task.held_out)
    authors = synth_authors(sum(counts.values()), task.questions, seed)
    passages = synth_general(task.general + task.general // 5, seed)
    tokenizer = WordTokenizer.closed()
    rows = encode_pairs(authors, tokenizer, LENGTH)
    order = torch.randperm(sum(counts.values()), generator=torch.Generator().manual_seed(seed))
    ids = dict(zip(counts, order.split(list(counts.values())), strict=True))
    parts = {name: of_clusters(rows, clusters) for name, clusters in ids.items()}
    parts["pretraining"] = encode_texts(passages[: task.general], tokenizer, LENGTH)
    parts["general"] = encode_texts(passages[task.general :], tokenizer, LENGTH)
    parts["kept"] = joined(parts["retain"], take(parts["pretraining"], torch.arange(task.mixed)))
    return parts, len(tokenizer)


QUICK_TASK = LanguageTask(retain=40, forget=12, held_out=12, general=1500, mixed=160, epochs=10.0, references=1)


@dataclass(frozen=True, eq=False)
class LanguageUnit:
    """A prepared unit.

    Attributes:
        task: What it is a unit of.
        seed: Its number: authors, forget draw and all training seeds follow from it.
        parts: Its rows.
        original: The model that is to forget.
        outputs: Of "original", "retrain", "floor" and "reference_0", ... on the judged parts.
        seconds: Wall time of each training.
        data_digest: Of its rows.
    """

    task: LanguageTask
    seed: int
    parts: Mapping[str, Mapping[str, Tensor]]
    original: nn.Module
    outputs: Mapping[str, Outputs]
    seconds: Mapping[str, float]
    data_digest: str

    @property
    def references(self) -> tuple[Outputs, ...]:
        """Outputs of the calibrated attack's models."""
        return tuple(self.outputs[f"reference_{k}"] for k in range(self.task.references))

    def outputs_of(self, model: nn.Module) -> dict[str, PartOutputs]:
        """A model's outputs on the judged parts."""
        return {part: outputs_on(model, self.parts[part]) for part in JUDGED}

    def training_seed(self, role: int) -> int:
        """Seed of one of the unit's trainings."""
        return self.seed * _SEEDS_PER_UNIT + role


def roles(task: LanguageTask) -> tuple[str, ...]:
    """The fine-tuned models of a unit."""
    return ("original", "retrain", "floor", *(f"reference_{k}" for k in range(task.references)))


def prepare_unit(task: LanguageTask, seed: int, folder: Path) -> LanguageUnit:
    """Train a unit's models, or read them from the cache: one file per (task, seed, rows, version of torch).

    Raises:
        DataError: A damaged file.
    """
    parts, vocabulary = task.parts(seed)
    digest = digest_of(parts)
    key = config_hash([CACHE_VERSION, asdict(task), seed, digest, torch.__version__])
    path = folder / f"unit-{seed}-{key[:16]}.safetensors"
    unit = LanguageUnit(task, seed, parts, tiny_llama(vocabulary, task.hidden, task.layers), {}, {}, digest)
    if not path.is_file():
        tensors, seconds = _train(unit)
        write_trained(path, tensors, {"seconds": seconds})
    return _load(path, unit)


def digest_of(parts: Mapping[str, Mapping[str, Tensor]]) -> str:
    """SHA-256 of all token numbers: texts that a later version writes otherwise are other data."""
    digest = hashlib.sha256()
    for name, part in parts.items():
        digest.update(name.encode() + part["input_ids"].numpy().tobytes())
    return digest.hexdigest()


def corpus_digest(task: LanguageTask) -> str:
    """SHA-256 of a sample of the texts, the same for all units of a task: tells versions of the corpora apart."""
    texts = [repr(row) for row in synth_authors(100, task.questions, 0)] + synth_general(500, 0)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _train(unit: LanguageUnit) -> tuple[dict[str, Tensor], dict[str, float]]:
    task, parts = unit.task, unit.parts
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(unit.training_seed(99))
        base = tiny_llama(_vocabulary(unit), task.hidden, task.layers)
    train(base, parts["pretraining"], task.base_epochs, task.base, seed=unit.training_seed(98))
    weights = {name: value.clone() for name, value in base.state_dict().items()}
    seconds, tensors = {"base": time.perf_counter() - began}, dict[str, Tensor]()
    for index, role in enumerate(roles(task)):
        began = time.perf_counter()
        base.load_state_dict(weights)
        rows = joined(parts["kept"], parts["forget"]) if role == "original" else parts["kept"]
        train(base, rows, task.epochs, task.tuning, seed=unit.training_seed(index))
        seconds[role] = time.perf_counter() - began
        for part, outputs in unit.outputs_of(base).items():
            for name in ("scores", "hidden"):
                tensors[f"{name}/{role}/{part}"] = torch.from_numpy(getattr(outputs, name))
            tensors[f"accuracy/{role}/{part}"] = torch.tensor(outputs.accuracy, dtype=torch.float64)
        if role == "original":
            tensors |= {f"weights/{name}": value.clone() for name, value in base.state_dict().items()}
    return tensors, seconds


def _vocabulary(unit: LanguageUnit) -> int:
    return unit.original.get_input_embeddings().num_embeddings  # type: ignore[operator]


def _load(path: Path, unit: LanguageUnit) -> LanguageUnit:
    tensors, facts = read_trained(path)
    unit.original.load_state_dict(weights_in(tensors))
    unit.original.eval()
    outputs = {role: {part: _part(tensors, role, part, unit) for part in JUDGED} for role in roles(unit.task)}
    return replace(unit, outputs=outputs, seconds=facts["seconds"])


def _part(tensors: Mapping[str, Any], role: str, part: str, unit: LanguageUnit) -> PartOutputs:
    key = f"{role}/{part}"
    return PartOutputs(
        tensors[f"scores/{key}"].numpy(),
        tensors[f"hidden/{key}"].numpy(),
        float(tensors[f"accuracy/{key}"]),
        unit.parts[part]["clusters"].numpy(),
    )
