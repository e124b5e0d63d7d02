"""Frozen records to strict JSON and back.

JSON knows no NaN: a number without a value becomes null, and its reason is kept under its path in the document's
`undefined` table, from which reading restores it. `NaN` and `Infinity` tokens are refused.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from amu_fast.errors import DataError

T = TypeVar("T")


def dumps(record: Any, schema: str) -> str:
    """JSON text of a dataclass: keys in the order of its fields, its schema first, undefined numbers last."""
    undefined: dict[str, str] = {}
    body = _encode(record, "", undefined)
    return json.dumps({"schema": schema, **body, "undefined": undefined}, indent=1, allow_nan=False) + "\n"


def loads(text: str | bytes, record: type[T], schema: str) -> T:
    """The dataclass that `dumps` wrote.

    Raises:
        DataError: not JSON, another schema, or a field that is missing, unknown or of the wrong type, by its path.
    """
    try:
        document = json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        raise DataError(f"not a {schema} document: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != schema:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise DataError(f"expected a {schema} document, got {found!r}; write it with this version's to_json")
    undefined = document.pop("undefined", {})
    del document["schema"]
    return _decode(record, document, "", undefined)


def _refuse(token: str) -> float:
    raise DataError(f"{token} is not JSON; write null and the reason")


def _encode(value: Any, path: str, undefined: dict[str, str]) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name), f"{path}/{f.name}", undefined) for f in fields(value)}
    if isinstance(value, Mapping):
        return {_key(k): _encode(v, f"{path}/{_key(k)}", undefined) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_encode(v, f"{path}/{i}", undefined) for i, v in enumerate(value)]
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if not isinstance(value, float):
        raise DataError(
            f"{path or '/'} holds a {type(value).__name__}; a report holds numbers, strings and records only"
        )
    if math.isfinite(value):
        return value
    undefined[path] = repr(value)
    return None


def _key(key: Any) -> str:
    return key if isinstance(key, str) else repr(key)


def _decode(hint: Any, value: Any, path: str, undefined: Mapping[str, str]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if path in undefined and value is None:
        return float(undefined[path])
    if hint is Any:
        return _decode_free(value, path, undefined)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _decode(next(a for a in arguments if a is not type(None)), value, path, undefined)
    if is_dataclass(hint):
        return _decode_record(hint, value, path, undefined)
    if origin is tuple:
        _expect(isinstance(value, list), "a list", value, path)
        return tuple(_decode(arguments[0], v, f"{path}/{i}", undefined) for i, v in enumerate(value))
    if origin is not None and origin is not Literal:
        _expect(isinstance(value, dict), "an object", value, path)
        make_key = float if arguments[0] is float else str
        return {make_key(k): _decode(arguments[1], v, f"{path}/{k}", undefined) for k, v in value.items()}
    if origin is Literal:
        _expect(value in arguments, f"one of {arguments}", value, path)
        return value
    accepted = (int, float) if hint is float else hint
    _expect(isinstance(value, accepted) and (hint is bool or not isinstance(value, bool)), hint.__name__, value, path)
    return hint(value)


def _decode_record(record: Any, value: Any, path: str, undefined: Mapping[str, str]) -> Any:
    _expect(isinstance(value, dict), "an object", value, path)
    hints = get_type_hints(record)
    names = [f.name for f in fields(record)]
    for name in set(names) ^ set(value):
        state = "missing" if name in names else "unknown"
        raise DataError(f"{path}/{name} is {state} in this document; it was written by another version or edited")
    return record(**{name: _decode(hints[name], value[name], f"{path}/{name}", undefined) for name in names})


def _decode_free(value: Any, path: str, undefined: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {k: _decode(Any, v, f"{path}/{k}", undefined) for k, v in value.items()}
    if isinstance(value, list):
        return [_decode(Any, v, f"{path}/{i}", undefined) for i, v in enumerate(value)]
    return value


def _expect(condition: bool, wanted: str, value: Any, path: str) -> None:
    if not condition:
        raise DataError(f"{path or '/'} must be {wanted}, got {value!r}; the document was edited or is damaged")
