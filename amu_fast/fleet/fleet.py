"""The fleet: every shadow model trained (and unlearned) once, here, in processes, or on a cluster."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from amu_fast.audit.predict import predict
from amu_fast.errors import DataError
from amu_fast.fleet import store
from amu_fast.fleet.specs import RowNumbers, ShadowSpec, row_numbers
from amu_fast.protocols import Method
from amu_fast.report.provenance import config_hash, hash_rows
from amu_fast.rows import Part, Rows
from amu_fast.splits import Splits

_WEIGHTS = "model."


@dataclass(frozen=True, eq=False)
class Shadow:
    """One finished shadow model.

    Attributes:
        spec: what it saw and unlearned.
        path: its file.
        rows: (r,) row numbers of the fleet's data that it was asked about.
        logits: (r, C) its answers, in eval mode, as the model gave them.
        weights: its weights and buffers by name; None unless the fleet keeps them.
    """

    spec: ShadowSpec
    path: Path
    rows: Tensor
    logits: Tensor
    weights: dict[str, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Fleet:
    """Makes shadow models and keeps what they said.

    A model's file is named by the hash of everything that determines it: template (architecture and weights: seed its
    construction), both methods' options, data, rows, seed, version of torch. A file that is there is checked and read,
    so a stopped run goes on where it stopped; a damaged one is refused. Options that are functions enter by name only,
    and of data that are not tensors the class, row numbers and labels: give another directory where those do not tell
    two fleets apart. The number of threads is not part of the name, though the last bits may depend on it.

    Work goes through joblib: `jobs` processes here, or, inside `joblib.parallel_config("dask")`, the workers of a Dask
    cluster, which then need `directory` on a file system that all of them and this process share.

    Attributes:
        model: the template; never changed.
        data: `(inputs, labels)` or a map-style data set; row numbers count its rows.
        train: trains a copy of the template on its splits' retain rows, as `Retrain` does; called with the spec's seed.
        directory: of the files; made if missing.
        unlearn: makes the trained model forget `spec.forget`; needed if any spec has such rows.
        ask: row numbers that every model answers; None: all.
        validation: non-members for methods that use them; no shadow trains on them, and none should be judged rows.
            None: all rows outside the spec's training rows.
        keep_weights: also keep the weights.
        jobs: processes; None: 1, or what `joblib.parallel_config` says.
        batch_size: rows per forward pass.
    """

    model: nn.Module
    data: Part
    train: Method
    directory: str | Path
    unlearn: Method | None = None
    ask: RowNumbers | None = None
    validation: RowNumbers | None = None
    keep_weights: bool = False
    jobs: int | None = None
    batch_size: int = 256

    def run(self, specs: Sequence[ShadowSpec]) -> list[Shadow]:
        """Make the models whose files are missing and read them all, in the order of `specs`.

        Raises:
            DataError: a spec that does not fit the data, or a damaged file; the first failure of a model is raised as
                it is, after which finished models stay.
        """
        from joblib import Parallel, delayed

        for spec in specs:
            self._splits(spec)
        keys = [self.key(spec) for spec in specs]
        missing = {key: spec for key, spec in zip(keys, specs, strict=True) if not self.path(key).exists()}
        # max_nbytes: joblib would otherwise leave large arrays in temporary pickle files
        Parallel(n_jobs=self.jobs, max_nbytes=None)(delayed(make)(self, spec, key) for key, spec in missing.items())
        return [self.read(spec, key) for spec, key in zip(specs, keys, strict=True)]

    def read(self, spec: ShadowSpec, key: str) -> Shadow:
        """A finished model, its file checked."""
        path = self.path(key)
        tensors = store.read(path, key)
        weights = {n.removeprefix(_WEIGHTS): t for n, t in tensors.items() if n.startswith(_WEIGHTS)}
        return Shadow(spec, path, tensors["rows"], tensors["logits"], weights if self.keep_weights else None)

    def path(self, key: str) -> Path:
        """The file of the model called `key`."""
        return Path(self.directory) / f"{key[:32]}.safetensors"

    def key(self, spec: ShadowSpec) -> str:
        """SHA-256 of all that determines the model and its file."""
        rows = {"train": spec.train, "forget": spec.forget}
        facts = {**self._shared, "seed": spec.seed, "rows": store.digest(rows)}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _rows(self) -> Rows:
        return Rows.of(self.data, "data")

    @cached_property
    def _asked(self) -> Tensor:
        return torch.arange(len(self._rows)) if self.ask is None else self._inside(self.ask, "ask")

    @cached_property
    def _shared(self) -> dict[str, str]:
        """What all models of this fleet have in common, as hashes; reads all data."""
        held_out = {} if self.validation is None else {"validation": self._inside(self.validation, "validation")}
        return {
            "train": config_hash(self.train),
            "unlearn": config_hash(self.unlearn),
            "model": store.model_digest(self.model),
            "data": hash_rows(self._rows),
            "asked": store.digest({"ask": self._asked, **held_out}),
            "weights": str(self.keep_weights),
            "torch": torch.__version__,
        }

    def _inside(self, rows: RowNumbers, name: str) -> Tensor:
        numbers = row_numbers(rows, name)
        if not len(numbers) or int(numbers[-1]) >= len(self._rows):
            raise DataError(f"{name} must hold row numbers below {len(self._rows)}, at least one; got {numbers[-3:]}")
        return numbers

    def _splits(self, spec: ShadowSpec) -> Splits:
        """Splits for unlearning; without rows to forget, for training."""
        if len(spec.forget) and self.unlearn is None:
            raise DataError(f"the spec of seed {spec.seed} forgets {len(spec.forget)} rows; pass Fleet(unlearn=method)")
        return self._cut(spec, spec.forget) if len(spec.forget) else self._training(spec)

    def _training(self, spec: ShadowSpec) -> Splits:
        """All training rows retained; training reads no forget row, so any outside row stands there."""
        outside, held_out = self._outside(spec)
        free = outside if self.validation is None else outside[~torch.isin(outside, held_out)]
        if len(outside) < 2 or not len(free):
            raise DataError(
                f"the spec of seed {spec.seed} trains on {len(spec.train)} of {len(self._rows)} rows; leave at least 2 "
                "outside (1 beside the validation rows)"
            )
        return self._cut(spec, free[:1])

    def _cut(self, spec: ShadowSpec, forget: Tensor) -> Splits:
        _, held_out = self._outside(spec)
        retain = spec.train[~torch.isin(spec.train, forget)]
        validation = held_out[~torch.isin(held_out, forget)]
        return Splits(*(self._rows.take(part) for part in (retain, forget, validation)))

    def _outside(self, spec: ShadowSpec) -> tuple[Tensor, Tensor]:
        """Rows that the model never trains on, and those of them that serve as validation."""
        self._inside(spec.train, "train")
        everything = torch.arange(len(self._rows))
        outside = everything[~torch.isin(everything, spec.train)]
        return outside, outside if self.validation is None else self._inside(self.validation, "validation")


def make(fleet: Fleet, spec: ShadowSpec, key: str) -> None:
    """Train, unlearn and ask one model, and write its file: what a worker does.

    Raises:
        DataError: its answers are not finite.
    """
    result = fleet.train.unlearn(fleet.model, fleet._training(spec), seed=spec.seed)
    if len(spec.forget) and fleet.unlearn is not None:
        result = fleet.unlearn.unlearn(result.model, fleet._splits(spec), seed=spec.seed)
    logits = predict(result.model, fleet._rows.take(fleet._asked), fleet.batch_size)[0].cpu()
    if not bool(torch.isfinite(logits).all()):
        raise DataError(f"the model of seed {spec.seed} answers {logits[~torch.isfinite(logits)][0]}; it diverged")
    tensors = {"logits": logits, "rows": fleet._asked}
    if fleet.keep_weights:
        tensors |= {_WEIGHTS + name: tensor for name, tensor in result.model.state_dict().items()}
    store.write(fleet.path(key), key, tensors)
