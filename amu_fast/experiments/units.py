"""A unit: one data split, one forget draw, one training seed; its trained models, and any method run on it.

Preparing a unit trains 3 + k models: the original on all training rows; retrain, the floor (another retrain) and k
references for the calibrated attack on the retain rows. All go through the same training loop.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from amu_fast.audit.attacks import SplitOutputs
from amu_fast.audit.attacks.outputs import Outputs
from amu_fast.audit.predict import predict
from amu_fast.experiments.tasks import DEMO_TASK, QUICK_TASK, TABLE_TASK, Task
from amu_fast.experiments.trained import read_trained, weights_in, write_trained
from amu_fast.report.provenance import config_hash
from amu_fast.splits import PARTS, Splits

if TYPE_CHECKING:
    from collections.abc import Callable

    from amu_fast.experiments.datasets import Population

__all__ = ["DEMO_TASK", "QUICK_TASK", "TABLE_TASK", "Task", "Unit", "cache_path", "prepare_unit", "roles"]

CACHE_VERSION = 1
_SEEDS_PER_UNIT = 1000


@dataclass(frozen=True, eq=False)
class Unit:
    """A prepared unit.

    Attributes:
        task: What it is a unit of.
        seed: Its number: split, forget draw and all training seeds follow from it.
        splits: Its rows.
        original: The model that is to forget.
        outputs: Of "original", "retrain", "floor" and "reference_0", ... on all four parts.
        seconds: Wall time of each training.
        data_digest: Of the population.
    """

    task: Task
    seed: int
    splits: Splits
    original: nn.Module
    outputs: Mapping[str, SplitOutputs]
    seconds: Mapping[str, float]
    data_digest: str

    @property
    def references(self) -> tuple[SplitOutputs, ...]:
        """Outputs of the calibrated attack's models."""
        return tuple(self.outputs[f"reference_{k}"] for k in range(self.task.references))

    def outputs_of(self, model: nn.Module) -> SplitOutputs:
        """A model's outputs on all four parts."""
        return SplitOutputs.of(model, self.splits, parts=PARTS, batch_size=1000)

    def training_seed(self, role: int) -> int:
        """Disjoint seeds: 0 … k + 2 for trainings, 100 and up for unlearning."""
        return self.seed * _SEEDS_PER_UNIT + role


def roles(task: Task) -> tuple[str, ...]:
    """The models of a unit, in the order of their seeds."""
    return ("original", "retrain", "floor", *(f"reference_{k}" for k in range(task.references)))


def prepare_unit(
    task: Task,
    seed: int,
    cache_dir: str | Path,
    *,
    population: Population | None = None,
    data_dir: str | Path | None = None,
    notify: Callable[[str], None] | None = None,
) -> Unit:
    """Train a unit's models, or read them from the cache.

    Args:
        task: What to train.
        seed: Number of the unit, ≥ 0.
        cache_dir: One file per (task, seed, data, version of torch), written atomically.
        population: The rows, if loaded already.
        data_dir: Where data files are looked for first.
        notify: Told of each training before it starts.

    Raises:
        DataError: Missing or damaged data or cache.
    """
    population = population if population is not None else task.population(data_dir)
    splits = task.draw(population, seed).splits(population)
    path = cache_path(task, seed, cache_dir, population)
    if not path.is_file():
        tensors, seconds = _train(task, seed, population, splits, notify or (lambda _: None))
        write_trained(path, tensors, {"seconds": seconds})
    return _load(path, task, seed, population, splits)


def cache_path(task: Task, seed: int, cache_dir: str | Path, population: Population) -> Path:
    """The unit's file; another torch may round otherwise, so its version is part of the name."""
    trained = {name: value for name, value in asdict(task).items() if name != "unlearn_batch"}
    key = config_hash([CACHE_VERSION, trained, seed, population.digest, torch.__version__])
    return Path(cache_dir) / f"unit-{seed}-{key[:16]}.safetensors"


def _train(
    task: Task, seed: int, population: Population, splits: Splits, notify: Callable[[str], None]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights of the original and logits of every model on every part."""
    network, training = task.network(population), task.training()
    tensors: dict[str, Tensor] = {}
    seconds = {}
    for index, role in enumerate(roles(task)):
        notify(f"unit {seed}: training {role}")
        began = time.perf_counter()
        rows = _all_training_rows(splits) if role == "original" else splits
        model = training.unlearn(network, rows, seed=seed * _SEEDS_PER_UNIT + index).model
        seconds[role] = time.perf_counter() - began
        for part in PARTS:
            tensors[f"logits/{role}/{part}"] = predict(model, splits.rows(part), batch_size=1000)[0]
        if role == "original":
            tensors |= {f"weights/{name}": value for name, value in model.state_dict().items()}
    return tensors, seconds


def _all_training_rows(splits: Splits) -> Splits:
    """Training rows as "retain", all that training from scratch reads; the other parts are there to be legal."""
    retain, forget = splits.rows("retain"), splits.rows("forget")
    everything = torch.cat([retain.base_index(), forget.base_index()])
    assert retain.tensors is not None
    return Splits.from_indices(
        retain.tensors,
        retain=everything,
        forget=splits.rows("validation").base_index(),
        validation=splits.rows("test").base_index(),
    )


def _load(path: Path, task: Task, seed: int, population: Population, splits: Splits) -> Unit:
    tensors, facts = read_trained(path)
    original = task.network(population)
    original.load_state_dict(weights_in(tensors))
    original.eval()
    outputs = {role: _outputs(tensors, role, splits) for role in roles(task)}
    return Unit(task, seed, splits, original, outputs, facts["seconds"], population.digest)


def _outputs(tensors: Mapping[str, Tensor], role: str, splits: Splits) -> SplitOutputs:
    parts = {p: Outputs.from_logits(tensors[f"logits/{role}/{p}"], splits.rows(p).labels()) for p in PARTS}
    return SplitOutputs(**parts)
