"""Files that are either the old one or the new one, never half of it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from amu_fast.errors import DataError


def write_atomic(path: str | Path, data: bytes) -> Path:
    """Write `data` beside `path`, force it to the disk, and rename it into place.

    Whatever interrupts this (a full disk, Ctrl-C), `path` holds its former content or nothing, and no temporary
    file stays behind.

    Args:
        path: the file; missing folders are made.
        data: its whole content.

    Returns:
        The path.

    Raises:
        DataError: the system refused, with its reason.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot write {len(data)} bytes to {path}: {error.strerror or error}; free space there, mind its "
            f"permissions, or choose another place; nothing was left half-written"
        ) from error
    return path
