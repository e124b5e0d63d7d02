"""A unit: one data split, one forget draw, one training seed; its trained models, and any method run on it.

Preparing a unit trains 3 + k models: the original on all training rows; retrain, the floor (another retrain) and k
references for the calibrated attack on the retain rows. All go through the same training loop. The original does not
depend on which rows are forgotten, so units that differ in that only share it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from amu_fast.audit.attacks import SplitOutputs
from amu_fast.audit.attacks.outputs import Outputs
from amu_fast.audit.predict import predict
from amu_fast.experiments.memorisation import ConfidenceAlongTraining
from amu_fast.experiments.tasks import DEMO_TASK, QUICK_TASK, TABLE_TASK, Task
from amu_fast.experiments.trained import read_trained, weights_in, write_trained
from amu_fast.report.provenance import config_hash
from amu_fast.splits import PARTS, Splits

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from amu_fast.experiments.population import Population

__all__ = ["DEMO_TASK", "QUICK_TASK", "TABLE_TASK", "Task", "Unit", "cache_path", "prepare_unit", "roles"]

CACHE_VERSION = 2
_SEEDS_PER_UNIT = 1000
_NOT_UNLEARNED = ("unlearn_batch",)
_NOT_IN_THE_ORIGINAL = ("unlearn_batch", "validation", "test", "forget", "forget_set", "references")


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
        alike: (n_test,) bool, the test rows that are like the forget rows: attacks are judged on them.
    """

    task: Task
    seed: int
    splits: Splits
    original: nn.Module
    outputs: Mapping[str, SplitOutputs]
    seconds: Mapping[str, float]
    data_digest: str
    alike: NDArray[np.bool_]

    @property
    def references(self) -> tuple[SplitOutputs, ...]:
        """Outputs of the calibrated attack's models."""
        return tuple(self.outputs[f"reference_{k}"] for k in range(self.task.references))

    def outputs_of(self, model: nn.Module) -> SplitOutputs:
        """A model's outputs on all four parts."""
        return SplitOutputs.of(model, self.splits, parts=PARTS, batch_size=1000)

    def attacked(self, outputs: SplitOutputs) -> SplitOutputs:
        """What attacks see: of the test rows those that are like the forget rows only (S6)."""
        return outputs if self.alike.all() else replace(outputs, test=outputs.test.take(self.alike.nonzero()[0]))

    def tuning(self, outputs: SplitOutputs) -> SplitOutputs:
        """V_tune, the half of the validation rows that no method reads, in place of the test rows (S16)."""
        validation = self.splits.rows("validation").base_index()
        chosen = torch.isin(validation, self.splits.split_validation()[1].base_index()).nonzero().flatten().numpy()
        return replace(outputs, test=outputs.require("validation").take(chosen))

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
    notify = notify or (lambda _: None)
    drawn = task.draw(population, seed, partial(_memorisation, task, seed, cache_dir, population, notify))
    splits = drawn.splits(population)
    path, original = (path(task, seed, cache_dir, population) for path in (cache_path, original_path))
    if not original.is_file():
        _train_original(original, task, seed, population, notify)
    if not path.is_file():
        _train(path, task, seed, population, splits, notify)
    return _load(path, original, task, seed, population, splits)


def cache_path(task: Task, seed: int, cache_dir: str | Path, population: Population) -> Path:
    """The unit's file; another torch may round otherwise, so its version is part of the name."""
    return _path("unit", _NOT_UNLEARNED, task, seed, cache_dir, population)


def original_path(task: Task, seed: int, cache_dir: str | Path, population: Population) -> Path:
    """The file of the original's weights, the same whatever is to be forgotten."""
    return _path("original", _NOT_IN_THE_ORIGINAL, task, seed, cache_dir, population)


def _path(
    kind: str, left_out: tuple[str, ...], task: Task, seed: int, cache_dir: str | Path, population: Population
) -> Path:
    facts = {name: value for name, value in asdict(task).items() if name not in left_out}
    key = config_hash([CACHE_VERSION, kind, facts, seed, population.digest, torch.__version__])
    return Path(cache_dir) / f"{kind}-{seed}-{key[:16]}.safetensors"


def _train_original(path: Path, task: Task, seed: int, population: Population, notify: Callable[[str], None]) -> None:
    model, seconds = _trained(task, seed, "original", population, _all_training_rows(task, seed, population), notify)
    weights = {f"weights/{name}": value for name, value in model.state_dict().items()}
    write_trained(path, weights, {"seconds": seconds})


def _train(
    path: Path, task: Task, seed: int, population: Population, splits: Splits, notify: Callable[[str], None]
) -> None:
    """Logits of every other model on every part."""
    tensors: dict[str, Tensor] = {}
    seconds = {}
    for role in roles(task)[1:]:
        model, seconds[role] = _trained(task, seed, role, population, splits, notify)
        for part in PARTS:
            tensors[f"logits/{role}/{part}"] = predict(model, splits.rows(part), batch_size=1000)[0]
    write_trained(path, tensors, {"seconds": seconds})


def _trained(
    task: Task, seed: int, role: str, population: Population, rows: Splits, notify: Callable[[str], None]
) -> tuple[nn.Module, float]:
    notify(f"unit {seed}: training {role}")
    began = time.perf_counter()
    number = seed * _SEEDS_PER_UNIT + roles(task).index(role)
    model = task.training().unlearn(task.network(population), rows, seed=number).model
    return model, time.perf_counter() - began


def _all_training_rows(task: Task, seed: int, population: Population) -> Splits:
    """Training rows as "retain", all that training from scratch reads; the other parts are there to be legal."""
    train, rest = task.training_rows(population, seed)
    data = (population.inputs, population.labels)
    return Splits.from_indices(data, retain=train, forget=rest[:1], validation=rest[1:2])


def _memorisation(
    task: Task, seed: int, cache_dir: str | Path, population: Population, notify: Callable[[str], None]
) -> Tensor:
    """(n,) 1 - p_y averaged over the epochs of the original's training, for each training row; cached."""
    path = _path("memorisation", _NOT_IN_THE_ORIGINAL, task, seed, cache_dir, population)
    if not path.is_file():
        notify(f"unit {seed}: training the original once more to see what it memorises")
        rows = _all_training_rows(task, seed, population)
        watch = ConfidenceAlongTraining(rows.rows("retain"))
        training = replace(task.training(), callbacks=(watch,))
        training.unlearn(task.network(population), rows, seed=seed * _SEEDS_PER_UNIT)
        write_trained(path, {"memorisation": 1.0 - watch.mean()}, {})
    return read_trained(path)[0]["memorisation"]


def _load(path: Path, original_file: Path, task: Task, seed: int, population: Population, splits: Splits) -> Unit:
    weights, first = read_trained(original_file)
    tensors, facts = read_trained(path)
    original = task.network(population)
    original.load_state_dict(weights_in(weights))
    original.eval()
    outputs = {role: _outputs(tensors, role, splits) for role in roles(task)[1:]}
    outputs = {"original": SplitOutputs.of(original, splits, parts=PARTS, batch_size=1000), **outputs}
    seconds = {"original": first["seconds"], **facts["seconds"]}
    alike = task.alike(population, splits.rows("test").base_index()).numpy()
    return Unit(task, seed, splits, original, outputs, seconds, population.digest, alike)


def _outputs(tensors: Mapping[str, Tensor], role: str, splits: Splits) -> SplitOutputs:
    parts = {p: Outputs.from_logits(tensors[f"logits/{role}/{p}"], splits.rows(p).labels()) for p in PARTS}
    return SplitOutputs(**parts)
