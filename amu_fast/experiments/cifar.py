"""CIFAR-10 and CIFAR-100 from their original files.

The python and binary versions of https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky 2009), in their folder or in
the archive as downloaded. Pickles go through `read_arrays`, which runs nothing. Training rows come first, test rows
after them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amu_fast.errors import DataError
from amu_fast.experiments.archives import Place, find
from amu_fast.experiments.pickles import read_arrays
from amu_fast.experiments.population import Population

SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_ADVICE = "download it from https://www.cs.toronto.edu/~kriz/cifar.html"
_BATCHES = tuple(f"data_batch_{batch}" for batch in range(1, 6))

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True)
class _Version:
    """One form in which a data set is distributed: its place, its files in order, and how one is read."""

    place: Place
    files: tuple[str, ...]
    read: Callable[[bytes, str], Arrays]


def cifar_10(data_dir: Path | None = None) -> Population:
    """CIFAR-10: 60,000 rows of (3, 32, 32), from the python version, else from the binary one.

    Raises:
        DataError: No files, or damaged ones.
    """
    return _load("cifar-10", 10, data_dir, _CIFAR_10)


def cifar_100(data_dir: Path | None = None) -> Population:
    """CIFAR-100 with its 100 fine classes: 60,000 rows of (3, 32, 32); DataError as for `cifar_10`."""
    return _load("cifar-100", 100, data_dir, _CIFAR_100)


def _load(name: str, classes: int, data_dir: Path | None, versions: tuple[_Version, ...]) -> Population:
    index, source = find(data_dir, [version.place for version in versions], _ADVICE)
    version = versions[index]
    contents = source.read(version.files)
    parts = [version.read(contents.pop(file), f"{source.path}, {file}") for file in version.files]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Population.of(name, images, labels, classes)


def _pickled(key: bytes) -> Callable[[bytes, str], Arrays]:
    """Reader of a python-version file: a dictionary of b"data", uint8 (n, 3072), and a list of n classes."""

    def read(data: bytes, name: str) -> Arrays:
        found = read_arrays(data, name)
        pixels, labels = found.get(b"data"), found.get(key)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
            raise DataError(f"{name} has {_described(pixels)} as data, expected uint8 (n, {_PIXELS}); not a CIFAR file")
        listed = labels if isinstance(labels, list) else []
        if len(listed) != len(pixels) or not all(type(label) is int for label in listed):
            raise DataError(f"{name} has no list of {len(pixels)} whole numbers under {key!r}; not a CIFAR file")
        return pixels.reshape(-1, *SHAPE), np.array(listed, dtype=np.int64)

    return read


def _binary(label_bytes: int) -> Callable[[bytes, str], Arrays]:
    """Reader of a binary-version file: per row its label bytes, the last of them the class, then 3,072 pixels."""
    size = label_bytes + _PIXELS

    def read(data: bytes, name: str) -> Arrays:
        if len(data) == 0 or len(data) % size:
            raise DataError(f"{name} has {len(data)} bytes, no multiple of {size}; it is cut off: copy it again")
        rows = np.frombuffer(data, np.uint8).reshape(-1, size)
        return rows[:, label_bytes:].reshape(-1, *SHAPE), rows[:, label_bytes - 1].astype(np.int64)

    return read


def _described(value: object) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


_CIFAR_10 = (
    _Version(
        Place("cifar-10-batches-py", "cifar-10-python.tar.gz", _BATCHES[0]),
        (*_BATCHES, "test_batch"),
        _pickled(b"labels"),
    ),
    _Version(
        Place("cifar-10-batches-bin", "cifar-10-binary.tar.gz", f"{_BATCHES[0]}.bin"),
        (*(f"{batch}.bin" for batch in _BATCHES), "test_batch.bin"),
        _binary(1),
    ),
)
_CIFAR_100 = (
    _Version(
        Place("cifar-100-python", "cifar-100-python.tar.gz", "train"), ("train", "test"), _pickled(b"fine_labels")
    ),
    _Version(Place("cifar-100-binary", "cifar-100-binary.tar.gz", "train.bin"), ("train.bin", "test.bin"), _binary(2)),
)
