"""Bytes that one document has, and a parser that takes no others.

RFC 8785 fixes key order, white space and escapes. The signed body holds no floats, whose digits differ between writers:
a decimal is a string with `DIGITS` digits after the point, and integers beyond 2**53 - 1 are strings.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from typing import Any

from amu_fast.errors import BackendError, DataError

DIGITS = 6
"""Digits after the point of every decimal."""

MAX_INTEGER = 2**53 - 1
MAX_BYTES = 1 << 24
_MAX_DEPTH = 64


def canonical_bytes(value: Any) -> bytes:
    """RFC 8785 bytes of objects, lists, strings, booleans, null and integers up to 2**53 - 1.

    Raises:
        DataError: A float, a key that is not ASCII, a string that is not in Unicode's form NFC, another type.
        BackendError: The library `rfc8785` is not installed.

    >>> canonical_bytes({"b": [1, None], "a": "x"})
    b'{"a":"x","b":[1,null]}'
    """
    try:
        import rfc8785
    except ImportError as error:
        raise BackendError("certificates need rfc8785; pip install 'amu-fast[certificate]'") from error
    _check(value, "", 0)
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise DataError(f"the document has no RFC 8785 form: {error}; remove lone surrogates from its text") from error


def parse(data: bytes) -> dict[str, Any]:
    """The object whose canonical bytes are `data`, exactly.

    Raises:
        DataError: Not UTF-8 or not JSON, a duplicate key, NaN, a float, or a byte that RFC 8785 would write otherwise.

    >>> parse(b'{"a":1}')
    {'a': 1}
    """
    if len(data) > MAX_BYTES:
        raise DataError(f"the document has {len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_refuse, parse_int=_integer
        )
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a JSON document: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"the document must be an object, got {type(value).__name__}")
    if canonical_bytes(value) != data:
        raise DataError("the bytes are not the RFC 8785 form of what they say: order, white space or escapes differ")
    return value


def decimal(value: float) -> str:
    """A finite number as text with `DIGITS` digits after the point, never a negative zero.

    >>> decimal(0.1), decimal(-1e-9)
    ('0.100000', '0.000000')
    """
    if not math.isfinite(value):
        raise DataError(f"{value!r} has no decimal form; record Unknown with the reason")
    text = f"{value:.{DIGITS}f}"
    return text.removeprefix("-") if float(text) == 0.0 else text


def undecimal(text: Any) -> float:
    """The number of a text that `decimal` wrote; DataError for any other spelling of it."""
    try:
        value = float(text) if isinstance(text, str) else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or decimal(value) != text:
        raise DataError(f"a decimal must be a string with {DIGITS} digits after the point, got {text!r}")
    return value


def sha256(data: bytes) -> str:
    """SHA-256 in lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _check(value: Any, path: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise DataError(f"the document is nested more than {_MAX_DEPTH} deep")
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int):
        _checked_integer(value, path)
    elif isinstance(value, str):
        if not unicodedata.is_normalized("NFC", value):
            raise DataError(f"{path or '/'} must be in Unicode's form NFC, got {value!r}; use unicodedata.normalize")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check(item, f"{path}/{index}", depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise DataError(f"keys must be ASCII strings, got {key!r} in {path or '/'}")
            _check(item, f"{path}/{key}", depth + 1)
    else:
        raise DataError(f"{path or '/'} holds a {type(value).__name__}; write numbers with a fraction by `decimal`")


def _checked_integer(value: int, path: str) -> int:
    if abs(value) > MAX_INTEGER:
        raise DataError(
            f"{path or 'an integer'} is beyond 2**53 - 1, where JSON readers disagree; write it as a string"
        )
    return value


def _integer(token: str) -> int:
    return _checked_integer(int(token), "")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise DataError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} occurs twice in one object")
    return found


def _refuse(token: str) -> Any:
    raise DataError(f"the number {token} is refused: decimals are strings with {DIGITS} digits, undefined is null")
