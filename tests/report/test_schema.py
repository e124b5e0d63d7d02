"""The published JSON schemas: equal to the code, satisfied by documents, violated by edited ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import jsonschema
import pytest

from amu_fast.errors import DataError
from amu_fast.report import Cost, MethodRecord, Metric, Provenance, Report
from amu_fast.report.schema import DOCUMENTS, FOLDER, json_schema, text, write


@pytest.fixture(scope="module")
def documents(case):
    report = Report(
        MethodRecord("toy", {"weight": 1.0}),
        seed=1,
        history={"step": (1.0, None, float("nan"))},
        cost=Cost(1.0, 2.0, 3.0, 4),
        provenance=Provenance.collect({}),
        metrics={"ks": None, "svm": Metric(None, reason="too few rows")},
        attacks=tuple(row.record for row in case.document.attacks),
    )
    return {
        "report.schema.json": report.to_json(),
        "audit.schema.json": case.document.to_json(),
        "private.schema.json": case.private.to_json(),
    }


@pytest.mark.parametrize("file", DOCUMENTS)
def test_published_schemas_are_those_of_the_code(file):
    published = (FOLDER / file).read_text()
    assert published == text(file), "run python -m amu_fast.report.schema"
    jsonschema.Draft202012Validator.check_schema(json.loads(published))


def validator(file):
    return jsonschema.Draft202012Validator(json.loads((FOLDER / file).read_text()))


@pytest.mark.parametrize("file", DOCUMENTS)
def test_documents_satisfy_their_schema(documents, file):
    assert [error.message for error in validator(file).iter_errors(json.loads(documents[file]))] == []


def test_a_document_without_any_part_satisfies_the_schema(empty):
    validator("audit.schema.json").validate(json.loads(empty.to_json()))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), "amu-fast-audit/2"),
        (("title",), 3),
        (("extra",), 3),
        (("verdict", "outcome"), "passed"),
        (("verdict", "claims", 0, "state"), "holds"),
        (("verdict", "claims", 0, "interval", "scope"), "all models"),
        (("losses", "models", "original", "forget", "counts", 0), 1.5),
        (("attacks", 0, "record", "in_game"), None),
        (("subject", "rows", "forget"), "many"),
        (("undefined", "/history/x/0"), "missing"),
    ],
)
def test_edited_documents_violate_it(documents, path, value):
    document = json.loads(documents["audit.schema.json"])
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert list(validator("audit.schema.json").iter_errors(document))


def test_a_document_that_lacks_a_part_violates_it(documents):
    document = json.loads(documents["audit.schema.json"])
    del document["roc"]
    with pytest.raises(jsonschema.ValidationError, match="'roc' is a required property"):
        validator("audit.schema.json").validate(document)


@dataclass(frozen=True)
class Inner:
    """Within.

    Attributes:
        mark: one of two.
    """

    mark: Literal["a", "b"]


@dataclass(frozen=True)
class Outer:
    """Of every kind. More words.

    Attributes:
        share: a number that
            may be none.
        names: some.
        table: by rate.
        inner: or null.
    """

    share: float
    names: tuple[str, ...]
    table: dict[float, int]
    inner: Inner | None


def test_each_kind_of_field_by_hand():
    made = json_schema(Outer, "toy/1")
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert made["description"] == "Of every kind. More words."
    assert made["additionalProperties"] is False
    assert made["required"] == ["schema", "share", "names", "table", "inner", "undefined"]
    properties = made["properties"]
    assert properties["share"] == {"type": ["number", "null"], "description": "a number that may be none."}
    assert properties["names"] == {"type": "array", "items": {"type": "string"}, "description": "some."}
    assert properties["table"]["additionalProperties"] == {"type": "integer"}
    assert properties["inner"]["anyOf"] == [{"$ref": "#/$defs/Inner"}, {"type": "null"}]
    assert made["$defs"]["Inner"]["properties"]["mark"] == {"enum": ["a", "b"], "description": "one of two."}


def test_a_field_that_no_document_can_hold():
    @dataclass
    class Odd:
        """Odd."""

        values: set[int]

    with pytest.raises(DataError, match="has no JSON form"):
        json_schema(Odd, "odd/1")


def test_schemas_are_written_where_asked(tmp_path):
    write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(DOCUMENTS)
