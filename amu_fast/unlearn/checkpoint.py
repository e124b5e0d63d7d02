"""Checkpoints from which a run goes on bit for bit: written whole or not at all, refused if damaged, no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.unlearn import checkpoint_files as files
from amu_fast.unlearn.checkpoint_model import model_state, optimizer_state, restore
from amu_fast.unlearn.checkpoint_ranks import Packed, agree, gather_states, rank_and_size
from amu_fast.unlearn.checkpoint_rng import capture_rng, restore_rng
from amu_fast.unlearn.checkpoint_tensors import Packer, unpack

__all__ = [
    "Checkpoint",
    "CheckpointStore",
    "capture_rng",
    "model_state",
    "optimizer_state",
    "restore",
    "restore_rng",
]

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on; all tensors on the CPU, in memory of their own.

    Args:
        step: Steps done.
        model: State dict of the model; tied weights are one tensor again.
        optimizer: State dict of the optimizer; empty if none was saved.
        state: Everything else that all ranks share.
        config_hash: Of the run that wrote it.
        rank_states: What differs by rank, by rank; empty if nothing was given.
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    config_hash: str = ""
    rank_states: tuple[Any, ...] = ()

    def of_rank(self, group: Any = None) -> Any:
        """This rank's entry of `rank_states`.

        Args:
            group: Process group; None: all ranks, or a single one without torch.distributed.

        Raises:
            DataError: Saved by another number of ranks.
        """
        rank, size = rank_and_size(group)
        if len(self.rank_states) != size:
            raise DataError(
                f"the checkpoint has states of {len(self.rank_states)} ranks and this run has {size}; resume on as many"
                ", or give the ranks new states and up the same numbers"
            )
        return self.rank_states[rank]


class CheckpointStore:
    """A folder with the latest checkpoints of one run.

    Each is a folder `step-00000123` with `model.safetensors`, `optimizer.safetensors`, `state.safetensors` and
    `unlearn_state.json`, which holds all that is not a tensor and size and SHA-256 of each file. It is written beside
    its place, forced to the disk and renamed: whatever kills the run, a checkpoint is there whole or not at all.
    Reading one runs no code from it. Hashes find accidents, not forgers.

    Args:
        folder: Made at the first save. One run at a time.
        keep: Checkpoints to keep, >= 1; older ones are deleted after each save.
        config_hash: Of everything that must be the same when the run goes on; "" takes any when loading.

    Raises:
        DataError: keep < 1.

    >>> import tempfile, torch
    >>> store = CheckpointStore(tempfile.mkdtemp(), config_hash="c0ffee")
    >>> path = store.save(7, model={"w": torch.ones(2)}, state={"at": 3})
    >>> path.name, store.latest() == path, store.load().state
    ('step-00000007', True, {'at': 3})
    """

    def __init__(self, folder: str | Path, *, keep: int = 2, config_hash: str = "") -> None:
        if keep < 1:
            raise DataError(f"keep must be >= 1, got {keep}; 2 leaves one to fall back on")
        self.folder, self.keep, self.config_hash = Path(folder), keep, config_hash

    def save(
        self,
        step: int,
        *,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Any] | None = None,
        state: Mapping[str, Any] | None = None,
        rank_state: Any = None,
        group: Any = None,
    ) -> Path:
        """Write a checkpoint, then delete what is older than the latest `keep` and what killed saves left.

        With torch.distributed every rank calls this; rank 0 writes, and all return, or raise, together.

        Args:
            step: Steps done; more than in the latest checkpoint.
            model: State dict; of rank 0. `model_state` makes it.
            optimizer: State dict; of rank 0. `optimizer_state` makes it.
            state: Anything else that `Packer` keeps: random states, positions, an objective's state; of rank 0.
            rank_state: What differs by rank, random states above all; gathered.
            group: Process group; None: all ranks.

        Returns:
            The checkpoint's folder.

        Raises:
            DataError: A value that cannot be kept, a step that is not later, or a system that refused to write.
        """
        path = self.folder / files.folder_name(step)
        error: DataError | None = None
        try:
            entries = gather_states(rank_state, group)
            if rank_and_size(group)[0] == 0:
                self._write(path, step, model, optimizer or {}, state or {}, entries)
        except DataError as raised:
            error = raised
        reason = agree("" if error is None else str(error), group)
        if error is not None:
            raise error
        if reason:
            raise DataError(reason)
        return path

    def latest(self) -> Path | None:
        """The checkpoint of most steps, unread; None if there is none."""
        paths = self._paths()
        return paths[-1] if paths else None

    def load(self, path: str | Path | None = None) -> Checkpoint:
        """Read and check a checkpoint.

        Args:
            path: Its folder; None: the latest.

        Raises:
            DataError: None there; or foreign, of another version or configuration; or damaged: the message then names
                the latest intact one before it, which is never taken silently.
        """
        chosen = self.latest() if path is None else Path(path)
        if chosen is None:
            raise DataError(f"no checkpoint in {self.folder}; start the run without resuming")
        try:
            return self._read(chosen)
        except files.DamagedError as error:
            raise DataError(f"{error}; {self._way_out(chosen)}") from error

    def _write(
        self,
        path: Path,
        step: int,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Any],
        state: Mapping[str, Any],
        entries: list[Packed],
    ) -> None:
        self._check_step(step)
        weights, moments, others = Packer(), Packer(), Packer()
        stored = {name: weights.add(tensor, name) for name, tensor in model.items()}
        document = {
            "format": files.FORMAT,
            "version": files.VERSION,
            "step": step,
            "config_hash": self.config_hash,
            "model": stored,
            "optimizer": moments.pack(dict(optimizer)),
            "state": others.pack(dict(state)),
            "rank_states": [structure for structure, _ in entries],
        }
        tensors = dict(others.tensors)
        for _, mine in entries:
            tensors |= mine
        for leftover in files.listing(self.folder)[1]:
            files.remove_folder(leftover)
        files.write_folder(path, {MODEL: weights.tensors, OPTIMIZER: moments.tensors, STATE: tensors}, document)
        for old in self._paths()[: -self.keep]:
            files.remove_folder(old)

    def _check_step(self, step: int) -> None:
        latest = self.latest()
        if step < 0 or (latest is not None and step <= files.step_of(latest)):
            raise DataError(
                f"step must be >= 0 and more than in {latest}, got {step}; go on from that checkpoint, or give a new "
                "run an empty folder"
            )

    def _read(self, path: Path) -> Checkpoint:
        document = files.read_document(path)
        written_by = document.get("config_hash")
        if self.config_hash and written_by != self.config_hash:
            raise DataError(
                f"{path} is of configuration {written_by or '(unnamed)'} and this run of {self.config_hash}; resume "
                "with the configuration that wrote it, or choose an empty folder"
            )
        try:
            entries = document["files"]
            tensors = {name: files.read_tensors(path / name, entries[name]) for name in (MODEL, OPTIMIZER, STATE)}
            return Checkpoint(
                step=document["step"],
                model={name: tensors[MODEL][stored] for name, stored in document["model"].items()},
                optimizer=unpack(document["optimizer"], tensors[OPTIMIZER]),
                state=unpack(document["state"], tensors[STATE]),
                config_hash=document["config_hash"],
                rank_states=tuple(unpack(entry, tensors[STATE]) for entry in document["rank_states"]),
            )
        except files.DamagedError:
            raise
        except (DataError, KeyError, TypeError, AttributeError) as error:
            raise files.DamagedError(f"{path / files.DOCUMENT} does not fit its files: {error!r}") from error

    def _way_out(self, damaged: Path) -> str:
        """What to do instead of loading a damaged checkpoint."""
        paths = self._paths()
        earlier = [p for p in paths if files.step_of(p) < files.step_of(damaged)] if damaged in paths else []
        for path in reversed(earlier):
            try:
                self._read(path)
            except DataError:
                continue
            return f"the latest intact one before it is {path}: delete {damaged} to go on from there"
        return "no intact one is before it: take a copy of it, or start anew in an empty folder"

    def _paths(self) -> list[Path]:
        """Checkpoints by step."""
        return files.listing(self.folder)[0]
