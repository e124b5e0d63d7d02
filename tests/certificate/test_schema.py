"""The JSON schema in the package is that of the dataclasses, and issued certificates fit it."""

from __future__ import annotations

import json

import pytest

from amu_fast.certificate import json_schema
from amu_fast.certificate.schema import stored_schema


def test_the_file_is_made_from_the_dataclasses():
    assert stored_schema() == json_schema(), "write json.dumps(json_schema(), indent=1) into schema.json"


def test_issued_certificates_fit_and_changed_ones_do_not(certify, policy, later):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(stored_schema())
    validator = jsonschema.Draft202012Validator(stored_schema())
    for issued in (certify("a"), certify("b", key=None), certify("c", policy=policy, facts=later)):
        validator.validate(json.loads(issued.path.read_bytes()))
    document = json.loads(certify("d").path.read_bytes())
    document["audits"][0]["auc"]["low"] = "0.1"
    assert [error.validator for error in validator.iter_errors({**document, "sequence": "0"})]
    audits = validator.evolve(schema={"$defs": validator.schema["$defs"], "$ref": "#/$defs/Audit"})
    assert [error.validator for error in audits.iter_errors(document["audits"][0])]
    assert not list(audits.iter_errors(document["audits"][1]))
    del document["verdict"]
    assert "required" in [error.validator for error in validator.iter_errors(document)]
