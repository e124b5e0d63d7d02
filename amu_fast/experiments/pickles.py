"""Arrays out of pickles of unknown origin: dictionaries, lists, strings, numbers and byte arrays, and nothing else.

A pickle is a program. This reader knows three of its words (make an empty array, name its type, encode a string), each
replaced by a function that checks its arguments; every other global is refused before it is imported.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from amu_fast.errors import DataError

_NDARRAY = object()
"""Stands for numpy.ndarray, which so cannot be called."""
_DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    MemoryError,
    OverflowError,
)
_TYPES = ("u1", "i1", "i2", "i4", "i8", "u2", "u4", "u8", "f4", "f8", "b1")


def _reconstruct(kind: object, shape: object, code: object) -> np.ndarray:
    """The empty array that the pickle then fills by its state."""
    if kind is not _NDARRAY or shape != (0,):
        raise DataError(f"the pickle builds an array of shape {shape}; array pickles start from (0,)")
    return np.empty(0, np.uint8)


def _dtype(name: object, align: object = False, copy: object = True) -> np.dtype:
    text = name.decode("latin1") if isinstance(name, bytes) else name
    if not isinstance(text, str) or text.lstrip("|<>=") not in _TYPES:
        raise DataError(f"the pickle holds values of type {name!r}; only plain numbers are read")
    return np.dtype(text, align=False, copy=True)


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise DataError(f"the pickle encodes a {type(text).__name__} as {encoding!r}; only latin1 text is read")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler whose globals are those of a byte array."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for one of the allowed globals; DataError, naming it, for any other."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise DataError(
                f"the pickle asks for {module}.{name}, which no array needs; it may be an attack: do not open it with "
                "another reader, get the file from its source"
            ) from None


def read_arrays(data: bytes, name: str) -> dict[bytes, Any]:
    """A pickled dictionary of arrays, lists and strings, with its text keys as bytes.

    Args:
        data: The pickle.
        name: Of the file, for messages.

    Raises:
        DataError: It needs other classes, is damaged, or is no dictionary.
    """
    try:
        found = ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{name} is refused: {error}") from error
    except _DAMAGED as error:
        raise DataError(f"{name} is a damaged pickle ({error}); copy or download it again") from error
    if not isinstance(found, dict):
        raise DataError(f"{name} holds a {type(found).__name__}, expected a dictionary; not this data set's file")
    return {key.encode() if isinstance(key, str) else key: value for key, value in found.items()}
