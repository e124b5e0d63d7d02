"""Trainer's checkpoint folders made whole: written beside their place, hashed, renamed, and checked before loading.

A `checkpoint-N` of transformers gets `unlearn_state.json`, with size and SHA-256 of every file in the folder, and
`unlearn_state.safetensors`. Trainer keeps optimizer, scheduler and random states in files of `torch.save`; they are
read after this check, by `torch.load(weights_only=True)`, which runs no code from them. `training_args.bin` is a pickle
and is never read. Hashes find accidents, not forgers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch

from amu_fast.errors import DataError
from amu_fast.unlearn import checkpoint_files as files
from amu_fast.unlearn.checkpoint_tensors import Packer, unpack

FORMAT = "amu-fast/trainer-checkpoint"
TENSORS = "unlearn_state.safetensors"
_STAGING = ".{name}.staging"


def staging_of(path: Path) -> Path:
    """Where a checkpoint is written before it is renamed; the same on every rank."""
    return path.with_name(_STAGING.format(name=path.name))


def clear_staging(run: Path) -> None:
    """Delete what killed saves left in a run's folder."""
    for leftover in [*run.glob(".checkpoint-*.staging"), *run.glob(".checkpoint-*.discarded")]:
        shutil.rmtree(leftover, ignore_errors=True)


def seal(staging: Path, path: Path, config: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Add the state and the hash of every file, force all to the disk, and rename.

    Args:
        staging: Folder with Trainer's files.
        path: Where it belongs; one that is there is replaced.
        config: What must be the same when the run goes on.
        state: Anything that `Packer` keeps.

    Raises:
        DataError: The system refused, or a value cannot be kept.
    """
    packer = Packer()
    document: dict[str, Any] = {"format": FORMAT, "version": files.VERSION, "config": dict(config)}
    document["state"] = packer.pack(dict(state))
    try:
        safetensors.torch.save_file(packer.tensors, staging / TENSORS, metadata={"format": "pt"})
        names = sorted(p.relative_to(staging).as_posix() for p in staging.rglob("*") if p.is_file())
        files.write_document(staging, document, names)
        if path.exists():
            old = path.rename(path.with_name(f".{path.name}.discarded"))
            staging.rename(path)
            shutil.rmtree(old)
        else:
            staging.rename(path)
        files.force_folder(path.parent)
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}; free space there, mind its permissions, or choose "
            "another output_dir"
        ) from error


def verified(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The state in a checkpoint, after every file in its folder was checked.

    Args:
        path: The folder.
        config: Of the run that wants to go on.

    Raises:
        DataError: Not a checkpoint of an `UnlearnTrainer`, of another version, of another run (names what differs), or
            damaged: a file is missing, truncated, altered or too many.
    """
    try:
        document = files.read_document(path, FORMAT)
        entries = document["files"]
        for name, entry in entries.items():
            files.check_file(path / name, entry)
        there = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} - {files.DOCUMENT}
        if strange := sorted(there - set(entries)):
            raise DataError(f"{path} has files that were not written with it: {', '.join(strange)}; remove them")
        tensors = files.read_tensors(path / TENSORS, entries[TENSORS])
        written, state = document["config"], unpack(document["state"], tensors)
    except (KeyError, TypeError, AttributeError) as error:
        raise files.DamagedError(f"{path / files.DOCUMENT} does not fit its files: {error!r}") from error
    _compare(path, written, json.loads(json.dumps(dict(config))))
    return state


def _compare(path: Path, written: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    names = [name for name in sorted({*written, *mine}) if written.get(name) != mine.get(name)]
    if names:
        told = "; ".join(f"{name} {written.get(name)!r} there, {mine.get(name)!r} here" for name in names)
        raise DataError(f"{path} is of another run: {told}; resume with the options that wrote it")
