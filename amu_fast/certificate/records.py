"""Frozen dataclasses to plain JSON values and back, without floats and without a bare null.

What is not known is `Unknown(reason)`: null in the document, and the reason under its JSON pointer in the table
`undefined`. Reading takes exactly what writing makes: every field, no other, of the annotated type and pattern.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from amu_fast.certificate.canonical import decimal, undecimal
from amu_fast.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True)
class Unknown:
    """A value that is not known, and why."""

    reason: str

    def __post_init__(self) -> None:
        if not self.reason:
            raise DataError("Unknown needs a reason; say why the value is not known")


@dataclass(frozen=True)
class Pattern:
    """Annotation of a string: the regular expression that all of it must match."""

    regex: str


_DAY = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"

Hash = Annotated[str, Pattern("[0-9a-f]{64}")]
"""SHA-256, HMAC-SHA-256 or the id of a key."""

Instant = Annotated[str, Pattern(f"{_DAY}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z")]
"""UTC, to the second."""

Date = Annotated[str, Pattern(_DAY)]
Code = Annotated[str, Pattern("[a-z][a-z0-9_]*")]
Whole = Annotated[str, Pattern("0|-?[1-9][0-9]*")]
"""A seed or another integer of any size."""


def encode(record: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The plain value of a dataclass, and the reasons of its nulls by JSON pointer."""
    undefined: dict[str, str] = {}
    return _encode(record, "", undefined), undefined


def decode(record: type[T], value: Any, undefined: Mapping[str, str]) -> T:
    """The dataclass that `encode` wrote.

    Raises:
        DataError: A field is missing, unknown or of another type, a null has no reason, a reason no null; by its path.
    """
    if not isinstance(undefined, Mapping) or not all(isinstance(r, str) and r for r in undefined.values()):
        raise DataError("`undefined` must map paths to reasons")
    used: set[str] = set()
    found = _decode_record(record, value, "", undefined, used)
    spare = sorted(set(undefined) - used)
    if spare:
        raise DataError(f"`undefined` gives a reason for {spare[0]}, which is not null")
    return found


@cache
def field_hints(record: type) -> dict[str, Any]:
    """Types of a dataclass's fields, in their order."""
    hints = get_type_hints(record, include_extras=True)
    return {f.name: hints[f.name] for f in fields(record)}


def pointer(path: str, key: str | int) -> str:
    """JSON pointer of a member (RFC 6901)."""
    return f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}"


def _encode(value: Any, path: str, undefined: dict[str, str]) -> Any:
    if isinstance(value, Unknown):
        undefined[path] = value.reason
        return None
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name), pointer(path, f.name), undefined) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _encode(item, pointer(path, key), undefined) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_encode(item, pointer(path, index), undefined) for index, item in enumerate(value)]
    if isinstance(value, float):
        return decimal(value)
    if isinstance(value, (bool, int, str)):
        return value
    raise DataError(f"{path or '/'} holds {value!r}; a certificate holds numbers, strings, records and Unknown only")


def _decode(hint: Any, value: Any, path: str, undefined: Mapping[str, str], used: set[str]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            _expect(path in undefined, "explained in `undefined`", value, path)
            used.add(path)
            return Unknown(undefined[path])
        return _decode(next(a for a in arguments if a is not Unknown), value, path, undefined, used)
    if origin is Annotated:
        _expect(isinstance(value, str) and re.fullmatch(arguments[1].regex, value), arguments[1].regex, value, path)
        return value
    if origin is Literal:
        _expect(isinstance(value, str) and value in arguments, f"one of {arguments}", value, path)
        return value
    if origin is tuple:
        _expect(isinstance(value, list), "a list", value, path)
        return tuple(_decode(arguments[0], v, pointer(path, i), undefined, used) for i, v in enumerate(value))
    if origin is not None:
        _expect(isinstance(value, dict), "an object", value, path)
        return {k: _decode(arguments[1], v, pointer(path, k), undefined, used) for k, v in value.items()}
    if is_dataclass(hint):
        return _decode_record(hint, value, path, undefined, used)
    return _decode_scalar(hint, value, path)


def _decode_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is float:
        try:
            return undecimal(value)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    _expect(isinstance(value, hint) and (hint is bool or not isinstance(value, bool)), hint.__name__, value, path)
    return value


def _decode_record(record: Any, value: Any, path: str, undefined: Mapping[str, str], used: set[str]) -> Any:
    _expect(isinstance(value, dict), "an object", value, path)
    hints = field_hints(record)
    names = list(hints)
    for name in sorted(set(names) ^ set(value)):
        raise DataError(f"{pointer(path, name)} is {'missing' if name in names else 'unknown'}")
    return record(**{n: _decode(hints[n], value[n], pointer(path, n), undefined, used) for n in names})


def _expect(condition: Any, wanted: str, value: Any, path: str) -> None:
    if not condition:
        raise DataError(f"{path or '/'} must be {wanted}, got {value!r}")
