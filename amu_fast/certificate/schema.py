"""The certificate's JSON schema, made from its dataclasses.

`schema.json` beside this file is what `json_schema` returns; it checks types, fields and patterns, not hashes.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from importlib.resources import files
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from amu_fast.certificate.canonical import DIGITS, MAX_INTEGER
from amu_fast.certificate.document import Certificate, Signature
from amu_fast.certificate.records import Hash, Unknown, field_hints

SCHEMA_FILE = "schema.json"
_DECIMAL = f"^-?(0|[1-9][0-9]*)\\.[0-9]{{{DIGITS}}}$"
_SCALARS: Mapping[type, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": -MAX_INTEGER, "maximum": MAX_INTEGER},
    float: {"type": "string", "pattern": _DECIMAL},
}


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a certificate's file."""
    definitions: dict[str, Any] = {}
    schema = _record(Certificate, definitions)
    extra = {
        "undefined": {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}},
        "content_hash": _of(Hash, definitions),
        "signature": {"anyOf": [{"type": "null"}, _of(Signature, definitions)]},
    }
    schema["properties"] |= extra
    schema["required"] += list(extra)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "amu-erasure/1",
        **schema,
        "$defs": dict(sorted(definitions.items())),
    }


def stored_schema() -> dict[str, Any]:
    """The schema as it lies in the package."""
    return json.loads((files("amu_fast.certificate") / SCHEMA_FILE).read_bytes())


def _of(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return {"anyOf": [{"type": "null"}, *(_of(one, definitions) for one in arguments if one is not Unknown)]}
    if origin is Annotated:
        return {"type": "string", "pattern": f"^({arguments[1].regex})$"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if origin is not None:
        return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}
    if not is_dataclass(hint):
        return _SCALARS[hint]
    name = hint.__name__  # type: ignore[union-attr]
    if name not in definitions:
        definitions[name] = _record(hint, definitions)
    return {"$ref": f"#/$defs/{name}"}


def _record(record: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = field_hints(record)
    return {
        "type": "object",
        "properties": {name: _of(hint, definitions) for name, hint in hints.items()},
        "required": list(hints),
        "additionalProperties": False,
    }
