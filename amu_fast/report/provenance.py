"""Where a figure comes from: code, data, configuration and machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import amu_fast
from amu_fast import backends
from amu_fast.splits import PARTS, Splits

if TYPE_CHECKING:
    from amu_fast.rows import Rows

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "triton")


@dataclass(frozen=True)
class Backend:
    """Which implementation served one operator on one device, and why."""

    operator: str
    device: str
    implementation: str
    why: str


@dataclass(frozen=True)
class Provenance:
    """What is needed to run the same thing again.

    Attributes:
        versions: of Python, this library and what it computes with; packages that are not installed are left out.
        commit: of the library's own repository, with "+changes" if files differ from it; None outside one.
        platform: operating system and processor.
        threads: torch's threads.
        backends: implementation of each operator on each device.
        config_hash: SHA-256 of the method's configuration.
        data_hashes: SHA-256 of each part's rows; None where no data was given.
    """

    versions: Mapping[str, str]
    commit: str | None
    platform: str
    threads: int
    backends: tuple[Backend, ...]
    config_hash: str
    data_hashes: Mapping[str, str] | None = None

    @staticmethod
    def collect(config: Any, splits: Splits | None = None) -> Provenance:
        """Of this process.

        Args:
            config: the method, or any value that `plain` takes.
            splits: hashes their rows (reads every tensor, so the device waits; data sets by index and labels only).
        """
        return Provenance(
            versions=_versions(),
            commit=_commit(),
            platform=f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs",
            threads=torch.get_num_threads(),
            backends=tuple(Backend(r.operator, r.device, r.implementation, r.why) for r in backends.table()),
            config_hash=config_hash(config),
            data_hashes=None if splits is None else _data_hashes(splits),
        )


def config_hash(config: Any) -> str:
    """SHA-256 of the configuration's plain form with sorted keys."""
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode()).hexdigest()


def plain(value: Any) -> Any:
    """A configuration as numbers, strings, lists and dicts, the same in every process.

    Dataclasses keep their class's name under "type"; functions and other objects become their qualified name,
    arrays their shape; numbers that are not finite become their name.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {
            "type": type(value).__name__,
            **{f.name: plain(getattr(value, f.name)) for f in fields(value) if f.repr},
        }
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if isinstance(value, (Tensor, np.ndarray)):
        return f"array{tuple(value.shape)}"
    if isinstance(value, float):
        return value if np.isfinite(value) else repr(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def hash_rows(rows: Rows) -> str:
    """SHA-256 of a part: of its inputs and labels for tensors, of its row numbers and labels for other data sets."""
    digest = hashlib.sha256()
    if rows.tensors is None:
        digest.update(type(rows.dataset).__qualname__.encode())
        arrays = [rows.base_index(), rows.labels()]
    else:
        arrays = list(rows.fetch(torch.arange(len(rows))))
    for array in arrays:
        digest.update(f"{array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _data_hashes(splits: Splits) -> dict[str, str]:
    return {part: hash_rows(splits.rows(part)) for part in PARTS if getattr(splits, part) is not None}


def _versions() -> dict[str, str]:
    found = {package: _version(package) for package in PACKAGES}
    installed = {package: number for package, number in found.items() if number is not None}
    return {"python": platform.python_version(), "amu_fast": amu_fast.__version__, **installed}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _commit() -> str | None:
    """HEAD of the repository that tracks this library's files; not that of a project it is installed into."""
    try:
        _git("ls-files", "--error-unmatch", "__init__.py")
        changed = _git("status", "--porcelain", "--untracked-files=no")
        return _git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    folder = Path(amu_fast.__file__).parent
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
