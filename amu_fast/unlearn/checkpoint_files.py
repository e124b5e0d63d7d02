"""Folders that appear whole, with the hash of every file in them, and their reading."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from amu_fast.errors import DataError

FORMAT = "amu-fast/checkpoint"
VERSION = 1
DOCUMENT = "unlearn_state.json"
_BLOCK = 1 << 20
_STEP = re.compile(r"step-\d{8,}")
_LEFTOVER = re.compile(r"\.step-\d+\.[0-9a-f]{12}\.(staging|discarded)")


class DamagedError(DataError):
    """A checkpoint that is not what was written."""


def write_folder(path: Path, files: Mapping[str, Mapping[str, Tensor]], document: Mapping[str, Any]) -> None:
    """Write tensors, then the document with their hashes, into a hidden folder; force it to the disk; rename it.

    Args:
        path: Where the folder appears; must not exist.
        files: File name to tensors by name.
        document: JSON; gets `files` and its own `sha256`.

    Raises:
        DataError: The system refused; nothing new is visible then.
    """
    staging = hidden(path, "staging")
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            force_folder(path.parent.parent)
        staging.mkdir()
        try:
            for name, tensors in files.items():
                _save_tensors(staging / name, tensors)
            write_document(staging, document, files)
            staging.rename(path)
        except BaseException:
            # a second refusal must not hide the first, and the next save tries again
            shutil.rmtree(staging, ignore_errors=True)
            raise
        force_folder(path.parent)
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}; free space there, mind its "
            "permissions, or choose another place; no half of it is visible"
        ) from error


def write_document(folder: Path, document: Mapping[str, Any], names: Iterable[str]) -> None:
    """Force the named files of a folder, then the document with their hashes and its own, then the folder to the disk.

    Args:
        folder: Without a document yet.
        document: JSON; gets `files` and `sha256`.
        names: Files that it vouches for, relative to the folder.

    Raises:
        OSError: The system refused.
    """
    signed = {**document, "files": {name: force_and_hash(folder / name) for name in names}}
    signed["sha256"] = digest_of(signed)
    with (folder / DOCUMENT).open("xb") as file:
        file.write(json.dumps(signed, indent=1, allow_nan=False).encode())
        file.flush()
        os.fsync(file.fileno())
    force_folder(folder)


def hidden(path: Path, purpose: str) -> Path:
    """A hidden name beside `path` that nothing else has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.{purpose}")


def listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """The checkpoints of a folder by step, and hidden folders that an interrupted save or removal left.

    Raises:
        DataError: The folder cannot be read.
    """
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror or error}; it must be a folder of yours") from error
    steps = sorted((path for path in paths if _STEP.fullmatch(path.name)), key=step_of)
    return steps, [path for path in paths if _LEFTOVER.fullmatch(path.name)]


def folder_name(step: int) -> str:
    """Name of a checkpoint's folder."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """Step of a checkpoint's folder."""
    return int(path.name.removeprefix("step-"))


def remove_folder(path: Path) -> None:
    """Make a folder disappear at once, then delete it."""
    try:
        discarded = path if _LEFTOVER.fullmatch(path.name) else path.rename(hidden(path, "discarded"))
        shutil.rmtree(discarded)
    except OSError as error:
        raise DataError(
            f"cannot remove {path}: {error.strerror or error}; mind the permissions of its folder"
        ) from error


def read_document(path: Path, expected: str = FORMAT) -> dict[str, Any]:
    """The document of a checkpoint, of the expected format, this version and undamaged.

    Raises:
        DamagedError: Missing, not JSON, or not what was written.
        DataError: Of another program or a newer version.
    """
    try:
        document = json.loads((path / DOCUMENT).read_bytes(), parse_constant=_refuse)
    except OSError as error:
        raise DamagedError(f"{path} has no readable {DOCUMENT}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path / DOCUMENT} is not JSON: {error}") from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != expected:
        raise DataError(f"{path} is no checkpoint of this library: its format is {found!r}, expected {expected!r}")
    if document.get("version") != VERSION:
        raise DataError(
            f"{path} has version {document.get('version')!r} of the format and this library reads version {VERSION}; "
            "use the version of amu_fast that wrote it"
        )
    if document.get("sha256") != digest_of({key: value for key, value in document.items() if key != "sha256"}):
        raise DamagedError(f"{path / DOCUMENT} is damaged: its content does not match its sha256")
    return document


def check_file(path: Path, entry: Mapping[str, Any]) -> None:
    """Compare a file with its manifest entry; DamagedError if it differs."""
    try:
        size = path.stat().st_size
        if size != entry["size"]:
            state = "truncated" if size < entry["size"] else "too long"
            raise DamagedError(f"{path} is {state}: {size} of {entry['size']} bytes")
        with path.open("rb") as file:
            digest = _hash(file)
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror or error}") from error
    if digest != entry["sha256"]:
        raise DamagedError(
            f"{path} is damaged: its sha256 is {digest[:12]}…, it was written with {entry['sha256'][:12]}…"
        )


def read_tensors(path: Path, entry: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a file that is what its manifest entry says, in memory of their own."""
    import safetensors.torch

    check_file(path, entry)
    try:
        # loaded tensors are a map of the file, at any alignment
        return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise DamagedError(f"{path} does not hold tensors: {error}") from error


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    import safetensors.torch

    try:
        safetensors.torch.save_file(dict(tensors), path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:  # the disk's refusals come as this, without their number
        raise OSError(str(error)) from error
    except KeyError as error:  # how safetensors says that a dtype is none of its own
        raise DataError(f"safetensors cannot hold {error}; convert the tensors of this type first") from error


def force_and_hash(path: Path) -> dict[str, Any]:
    """Force a file to the disk; its manifest entry."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        digest = _hash(file)
    return {"size": path.stat().st_size, "sha256": digest}


def _hash(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def force_folder(path: Path) -> None:
    """Force a folder's entries to the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_of(document: Mapping[str, Any]) -> str:
    """SHA-256 of a document without its `sha256`."""
    # a document that json.loads accepted: floats are read back from their shortest form to the same bits
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _refuse(token: str) -> float:
    raise ValueError(f"{token} is not JSON")
