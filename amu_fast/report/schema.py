"""JSON Schema (2020-12) of the library's documents, made from the dataclasses that the codec writes.

`python -m amu_fast.report.schema` writes `amu_fast/report/schemas/*.json` anew; a test keeps them equal to the code.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from amu_fast.errors import DataError
from amu_fast.report import document, private, report
from amu_fast.report.writing import write_atomic

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FOLDER = Path(__file__).parent / "schemas"
DOCUMENTS: Mapping[str, tuple[type, str]] = {
    "report.schema.json": (report.Report, report.SCHEMA),
    "audit.schema.json": (document.AuditDocument, document.SCHEMA),
    "private.schema.json": (private.PrivateTable, private.SCHEMA),
}
_PLAIN: Mapping[Any, dict[str, Any]] = {
    # A number without a value is null, and its path is a key of the document's `undefined` table.
    float: {"type": ["number", "null"]},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    str: {"type": "string"},
    type(None): {"type": "null"},
    Any: {},
}


def json_schema(record: type, name: str) -> dict[str, Any]:
    """The schema of a document that `codec.dumps(record, name)` writes.

    Args:
        record: a dataclass; descriptions come from its docstring and its attributes'.
        name: the document's own name, as "amu-fast-report/1", which is the constant value of its key "schema".

    Raises:
        DataError: a field of a type that the codec does not write.
    """
    definitions: dict[str, Any] = {}
    body = _record(record, definitions)
    undefined = {
        "type": "object",
        "additionalProperties": {"enum": ["nan", "inf", "-inf"]},
        "description": "Path of each number that is null to what it is instead.",
    }
    properties = {"schema": {"const": name}, **body["properties"], "undefined": undefined}
    return {
        "$schema": DIALECT,
        "$id": f"urn:amu-fast:{name}",
        "title": name,
        **body,
        "properties": properties,
        "required": list(properties),
        "$defs": dict(sorted(definitions.items())),
    }


def text(file: str) -> str:
    """One file of `schemas/`, as it should be."""
    return json.dumps(json_schema(*DOCUMENTS[file]), indent=1) + "\n"


def write(folder: Path = FOLDER) -> None:
    """Write all schemas."""
    for file in DOCUMENTS:
        write_atomic(folder / file, text(file).encode())


def _record(record: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints, words = get_type_hints(record), _attributes(record)
    properties = {f.name: _described(_schema(hints[f.name], definitions), words.get(f.name)) for f in fields(record)}
    return {
        "type": "object",
        "description": inspect.cleandoc(record.__doc__ or "").partition("\n")[0],
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    if origin in (Union, types.UnionType):
        kinds = [_schema(argument, definitions) for argument in arguments]
        nullable = any("null" in kind.get("type", ()) for kind in kinds if isinstance(kind.get("type"), list))
        kept = [kind for kind in kinds if not (nullable and kind == _PLAIN[type(None)])]
        return kept[0] if len(kept) == 1 else {"anyOf": kept}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if is_dataclass(hint):
        return _reference(hint, definitions)
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    raise DataError(f"{hint} has no JSON form; use numbers, strings, tuples, mappings and dataclasses of them")


def _reference(record: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    name = record.__name__
    if name not in definitions:
        definitions[name] = {}  # reserved, for records that hold themselves
        definitions[name] = _record(record, definitions)
    return {"$ref": f"#/$defs/{name}"}


def _described(schema: dict[str, Any], words: str | None) -> dict[str, Any]:
    return {**schema, "description": words} if words else schema


def _attributes(record: type) -> dict[str, str]:
    """Attribute to its words in the docstring's section "Attributes:"."""
    _, _, section = inspect.cleandoc(record.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        start = re.match(r"    (\w+): (.*)", line)
        if start:
            name = start.group(1)
            found[name] = start.group(2)
        elif line.startswith("        ") and name:
            found[name] += " " + line.strip()
        elif line.strip():
            break
    return found


if __name__ == "__main__":
    write()
