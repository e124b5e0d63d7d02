"""What a certificate records of a folder, and what it keeps out."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import fields, replace

import pytest
from certified import IDS

from amu_fast.certificate import CANNOT_ESTABLISH, Facts, Sidecar, Sources, Unknown, collect, issue, tensor_digest
from amu_fast.certificate.document import Certificate
from amu_fast.certificate.records import decode, encode
from amu_fast.certificate.sealing import seal, unseal
from amu_fast.certificate.statements import COPIES, ESTABLISHES
from amu_fast.errors import DataError

FACTS = {
    "request_ids": ["REQ-7", "REQ-8"],
    "basis": "Art. 17 GDPR",
    "received": "2026-01-02",
    "threat_model": "sees the model's outputs",
    "reference": "proxy",
    "disposal": {"checkpoints": "deleted", "laptops": "kept"},
    "residual_risk": ["the proxy is no retrained model"],
}


def test_the_manifest_lists_every_file_but_the_certificate(certify):
    issued = certify()
    folder = issued.path.parent
    listed = {entry.path: (entry.size, entry.sha256) for entry in issued.certificate.manifest}
    found = {
        path.relative_to(folder).as_posix(): (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file() and path != issued.path
    }
    assert listed == found
    assert set(found) == {"model.safetensors", "report.json", "scores.safetensors", "figures/roc.png"}


def test_what_the_report_says_is_recorded(certify):
    certificate = certify().certificate
    procedure = certificate.procedure
    assert (procedure.method, procedure.kind, procedure.seed) == ("toy", "approximate", str(2**60))
    assert (procedure.steps, procedure.seconds, procedure.stopped_early) == (3, 1.5, False)
    assert [audit.attack for audit in certificate.audits] == ["loss", "margin"]
    utility = {measured.name: measured.estimate for measured in certificate.utility}
    assert utility["test_accuracy"].scope == "the algorithm"
    assert utility["svm"] == Unknown("no validation rows")
    assert utility["ks"] == Unknown("not measured")
    assert utility["undefined"].value == Unknown("the value was nan")
    assert certificate.models.after.tensor_digest == tensor_digest(certify("b").path.parent / "model.safetensors")
    assert certificate.reference.kind == "none"
    assert any("no reference model" in line for line in certificate.limitations)


def test_ids_and_the_forget_sets_hash_are_keyed(certify, sidecar):
    issued = certify(facts=Facts.of(FACTS))
    text = issued.path.read_text()
    assert not [one for one in (*IDS, "REQ-7", "REQ-8", sidecar.id_key, sidecar.master_key) if one in text]
    data = {one.part: one for one in issued.certificate.data}
    assert (data["retain"].sha256, data["retain"].keyed) == ("0" * 64, False)
    assert (data["forget"].sha256, data["forget"].keyed) == (sidecar.keyed("1" * 64), True)
    assert set(issued.certificate.request.ids) == {sidecar.keyed("REQ-7"), sidecar.keyed("REQ-8")}
    assert (issued.certificate.subjects.count, issued.certificate.subjects.merkle_root) == (5, sidecar.root())


def test_facts_are_recorded_and_the_rest_is_unknown(certify):
    certificate = certify(facts=Facts.of(FACTS)).certificate
    assert certificate.reference.kind == "proxy"
    assert certificate.request.basis == "Art. 17 GDPR"
    assert isinstance(certificate.request.completed, Unknown)
    assert certificate.residual_risk == ("the proxy is no retrained model",)
    disposal = {one.item: one.state for one in certificate.disposal}
    assert list(disposal) == [*COPIES, "laptops"]
    assert (disposal["checkpoints"], disposal["laptops"]) == ("deleted", "kept")
    assert isinstance(disposal["optimiser state"], Unknown)
    assert {audit.threat_model for audit in certificate.audits} == {"sees the model's outputs"}


def test_facts_from_yaml_keep_dates_as_they_stand(tmp_path):
    path = tmp_path / "facts.yaml"
    path.write_text("received: 2026-01-02\nlimitations: [one]\ndisposal: {checkpoints: deleted}\n")
    facts = Facts.load(path)
    assert (facts.received, facts.limitations, facts.disposal) == ("2026-01-02", ("one",), {"checkpoints": "deleted"})
    assert facts == replace(Facts(), received="2026-01-02", limitations=("one",), disposal={"checkpoints": "deleted"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("basiss: x", "with some of the keys"),
        ("[1]", "must be a mapping"),
        ("received: yesterday", "/received must be"),
        ("reference: perfect", "/reference must be"),
        ("a: [", "is not YAML"),
    ],
)
def test_facts_that_are_none(tmp_path, text, message):
    (tmp_path / "facts.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        Facts.load(tmp_path / "facts.yaml")


def test_a_copy_with_an_unknown_fate_is_refused(certify):
    with pytest.raises(DataError, match="/disposal/2/state must be"):
        certify(facts=Facts.of({"disposal": {"checkpoints": "eaten"}}))


def test_an_empty_folder_gives_a_certificate_of_unknowns(tmp_path, keys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("nothing else")
    content = collect(Sources(folder=tmp_path / "run", sidecar=Sidecar.new()))
    issued = issue(tmp_path / "run", content, key=keys.key)
    body = json.loads(issued.path.read_bytes())
    assert [key for key in ("procedure", "audits", "utility", "subjects", "request", "data") if body[key] is None]
    assert body["undefined"]["/procedure"] == "the folder holds no report.json"


def test_every_null_has_its_reason_and_no_number_is_a_float(certify):
    body = json.loads(certify(key=None).path.read_bytes())
    nulls, stack = set(), [("", {k: v for k, v in body.items() if k not in ("undefined", "signature")})]
    while stack:
        path, value = stack.pop()
        assert not isinstance(value, float), path
        if value is None:
            nulls.add(path)
        elif isinstance(value, dict):
            stack += [(f"{path}/{k}", v) for k, v in value.items()]
        elif isinstance(value, list):
            stack += [(f"{path}/{k}", v) for k, v in enumerate(value)]
    assert nulls == set(body["undefined"])
    assert "/signer" in nulls


def test_the_document_comes_back(certify):
    issued = certify()
    assert unseal(issued.path.read_bytes()).certificate == replace(issued.certificate, **rounded(issued.certificate))


def rounded(certificate: Certificate) -> dict[str, object]:
    """What has more digits than a certificate keeps."""
    value, undefined = encode(certificate)
    again = decode(Certificate, value, undefined)
    return {name: getattr(again, name) for name in ("audits", "utility")}


@pytest.mark.parametrize("field", [f.name for f in fields(Certificate)])
def test_no_field_may_be_missing_or_renamed(certify, keys, field):
    certificate = certify().certificate
    body = certificate.body()
    undefined = body.pop("undefined")
    body[f"{field}_"] = body.pop(field)
    with pytest.raises(DataError, match=f"/{field}"):
        decode(Certificate, body, undefined)


def test_a_certificate_says_what_it_cannot_show_and_never_too_much(certify):
    certificate = certify().certificate
    assert certificate.cannot_establish == CANNOT_ESTABLISH
    words = " ".join((*ESTABLISHES, *CANNOT_ESTABLISH, *certificate.limitations, *certificate.residual_risk)).lower()
    assert "no copy of the data" in words
    assert "weights came from the stated procedure" in words
    assert not [word for word in ("compliant", "compliance", "is gone", "guarantee", "erased") if word in words]


def test_a_certificate_is_never_overwritten(certify, keys, sidecar):
    issued = certify()
    before = issued.path.read_bytes()
    content = collect(Sources(folder=issued.path.parent, sidecar=sidecar))
    with pytest.raises(DataError, match="never overwritten"):
        issue(issued.path.parent, content, key=keys.key)
    assert issued.path.read_bytes() == before


def test_a_damaged_predecessor_is_refused(certify, tmp_path):
    first = certify("0").path
    first.write_bytes(first.read_bytes().replace(b'"toy"', b'"tox"'))
    with pytest.raises(DataError, match=r"previous certificate .* is damaged"):
        certify("1", previous=first)
    with pytest.raises(DataError, match="cannot read the previous"):
        certify("2", previous=tmp_path / "absent.json")


def test_links_are_not_certified(template, tmp_path, keys, sidecar):
    folder = tmp_path / "run"
    shutil.copytree(template, folder)
    content = collect(Sources(folder=folder, sidecar=sidecar))
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="no plain file"):
        issue(folder, content, key=keys.key)
    assert not (folder / "certificate.json").exists()


def test_a_seal_needs_the_key_that_the_body_names(certify, stranger):
    certificate = certify().certificate
    for key in (stranger.key, None):
        with pytest.raises(DataError, match="not the key given"):
            seal(certificate, key)


def test_the_model_before_is_hashed_where_it_is_given(certify, template):
    models = certify(original=template / "model.safetensors").certificate.models
    assert models.before == models.after
    assert isinstance(certify("b").certificate.models.before, Unknown)
