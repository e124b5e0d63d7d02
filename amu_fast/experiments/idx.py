"""IDX files, the format in which MNIST and its relatives are distributed, read with every size checked."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amu_fast.errors import DataError

IMAGES_MAGIC = 0x00000803
"""Two zero bytes, type 8 (unsigned byte), 3 dimensions."""
LABELS_MAGIC = 0x00000801
_GZIP = b"\x1f\x8b"


def read_images(path: str | Path) -> NDArray[np.uint8]:
    """Images (n, height, width) of an IDX file, plain or gzipped.

    Raises:
        DataError: The file is unreadable, damaged, no image file, or longer or shorter than its header says.
    """
    return _read(Path(path), IMAGES_MAGIC, 3)


def read_labels(path: str | Path) -> NDArray[np.uint8]:
    """Labels (n,) of an IDX file, plain or gzipped; DataError as for `read_images`."""
    return _read(Path(path), LABELS_MAGIC, 1)


def _read(path: Path, magic: int, dimensions: int) -> NDArray[np.uint8]:
    """Header: magic number, then one size per dimension, all 32-bit big-endian; then one byte per value."""
    data = _bytes(path)
    header = 4 * (1 + dimensions)
    if len(data) < header:
        raise DataError(f"{path} holds {len(data)} bytes, less than its header of {header}; copy the file again")
    found, *shape = (int(word) for word in np.frombuffer(data, dtype=">u4", count=1 + dimensions))
    if found != magic:
        raise DataError(f"{path} starts with the magic number {found:#010x}, expected {magic:#010x}; not this IDX file")
    expected = header + math.prod(shape)
    if len(data) != expected:
        raise DataError(
            f"{path} holds {len(data)} bytes, its header promises {expected} for shape {tuple(shape)}; "
            "it is truncated or damaged: copy it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == _GZIP else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}; copy it again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; pass the folder that holds it") from error
