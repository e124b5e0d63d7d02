"""Every way to change a certificate, its signature, its files or its model, and the outcome that finds it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from amu_fast.certificate import Facts, Outcome, Sidecar, Sources, collect, issue, tensor_digest, verify
from amu_fast.certificate.canonical import canonical_bytes, sha256
from amu_fast.certificate.document import CERTIFICATE_FILE
from amu_fast.certificate.sealing import seal, unseal
from amu_fast.errors import DataError

OTHER = Facts(residual_risk=("another text",))


def rewritten(path: Path, change, *, rehash: bool = True) -> None:
    """Change the document, and (as a forger without the key can) its content hash with it."""
    document = json.loads(path.read_bytes())
    change(document)
    if rehash:
        body = {k: v for k, v in document.items() if k not in ("content_hash", "signature")}
        document["content_hash"] = sha256(canonical_bytes(body))
    path.write_bytes(canonical_bytes(document))


def states(found) -> dict[str, str]:
    return {check.name: check.state for check in found.checks}


def test_a_sound_certificate_is_trusted(certify, keys):
    issued = certify()
    found = verify(issued.path, trust=[keys.public])
    assert (found.outcome, found.exit_code, found.warnings) == (Outcome.TRUSTED, 0, ())
    expected = dict.fromkeys(("certificate", "signature", "files", "model", "chain", "intervals"), "passed")
    assert states(found) == {**expected, "inclusion": "not_checked"}
    assert found.sealed.file_hash == issued.file_hash == sha256(issued.path.read_bytes())
    assert found.sealed.certificate == verify(issued.path.parent, trust=[keys.public]).sealed.certificate
    assert found.sealed.signature.key_id == keys.key.key_id


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'{"audits"', b'{ "audits"'),
        (b"}", b"}\n"),
        (b'"0.950000"', b'"0.95"'),
        (b'"0.950000"', b'"0.9500000"'),
        (b'"decimal_digits":6', b'"decimal_digits":6.0'),
        (b'"decimal_digits":6', b'"decimal_digits":NaN'),
        (b'"decimal_digits":6', b'"decimal_digits":6,"decimal_digits":6'),
        (b'"sequence":0', b'"sequence":-0'),
        (b'"toy"', b'"\\u0074oy"'),
    ],
)
def test_another_spelling_is_damage(certify, keys, old, new):
    path = certify().path
    data = path.read_bytes()
    assert old in data
    head, tail = data.rsplit(old, 1)
    path.write_bytes(head + new + tail)
    assert verify(path, trust=[keys.public]).exit_code == 2


def test_another_order_of_keys_is_damage(certify, keys):
    path = certify().path
    document = json.loads(path.read_bytes())
    path.write_bytes(json.dumps(dict(reversed(document.items())), separators=(",", ":"), ensure_ascii=False).encode())
    assert verify(path, trust=[keys.public]).exit_code == 2


def test_a_stripped_signature_is_damage_while_the_body_names_its_signer(certify, keys):
    path = certify().path
    rewritten(path, lambda document: document.update(signature=None))
    assert verify(path, trust=[keys.public]).exit_code == 2


def test_a_signer_stripped_as_well_leaves_an_unsigned_certificate(certify, keys):
    """Anybody can do that: it must not pass as trusted, and says so."""
    path = certify().path

    def strip(document):
        document.update(signature=None, signer=None)
        document["undefined"]["/signer"] = "issued without a key"

    rewritten(path, strip)
    found = verify(path, trust=[keys.public])
    assert (found.outcome, found.exit_code) == (Outcome.UNSIGNED, 5)
    assert "not forgers" in found.check("signature").detail


def test_a_signature_of_another_certificate_is_damage(certify, keys):
    first, second = certify("a"), certify("b", facts=OTHER)
    taken = json.loads(first.path.read_bytes())["signature"]
    rewritten(second.path, lambda document: document.update(signature=taken))
    found = verify(second.path, trust=[keys.public])
    assert found.exit_code == 2
    assert found.check("signature").state == "failed"


def test_a_strangers_signature_under_the_signers_name_is_damage(certify, keys, stranger):
    path = certify().path

    def swap(document):
        document["signature"]["value"] = stranger.key.sign(document["content_hash"])

    rewritten(path, swap)
    assert verify(path, trust=[keys.public]).exit_code == 2


def test_a_strangers_certificate_is_of_an_unknown_key(certify, keys, stranger):
    path = certify(key=stranger.key).path
    found = verify(path, trust=[keys.public])
    assert (found.outcome, found.exit_code) == (Outcome.UNKNOWN_KEY, 4)
    assert verify(path).exit_code == 4
    assert verify(path, trust=[keys.public, stranger.public]).exit_code == 0


def test_a_forged_and_resigned_body_is_of_an_unknown_key(certify, keys, stranger):
    """The public key comes from the verifier: a forger's own key in the certificate helps nothing."""
    path = certify().path
    forged = replace(unseal(path.read_bytes()).certificate, limitations=(), signer=stranger.key.key_id)
    path.write_bytes(seal(forged, stranger.key))
    assert verify(path, trust=[keys.public]).exit_code == 4


def test_an_unsigned_certificate(certify, keys):
    issued = certify(key=None)
    assert verify(issued.path, trust=[keys.public]).exit_code == 5
    rewritten(issued.path, lambda document: document.update(limitations=[]), rehash=False)
    assert verify(issued.path).exit_code == 2


def test_a_missing_file_is_not_checked_and_no_pass(certify, keys):
    path = certify().path
    (path.parent / "figures" / "roc.png").unlink()
    found = verify(path, trust=[keys.public])
    assert (found.outcome, found.exit_code, found.check("files").state) == (Outcome.FILE_MISSING, 6, "not_checked")
    assert "figures/roc.png" in found.check("files").detail
    allowed = verify(path, trust=[keys.public], allow_missing=True)
    assert (allowed.exit_code, allowed.check("files").state) == (0, "not_checked")


def test_missing_files_do_not_hide_damage_or_an_unknown_key(certify, keys):
    path = certify().path
    (path.parent / "model.safetensors").unlink()
    assert verify(path, allow_missing=True).exit_code == 4
    assert verify(path, trust=[keys.public], allow_missing=True).check("model").state == "not_checked"
    (path.parent / "report.json").write_text("{}")
    assert verify(path, trust=[keys.public], allow_missing=True).exit_code == 2


def test_a_missing_certificate(tmp_path, keys):
    assert verify(tmp_path, trust=[keys.public]).exit_code == 6
    assert verify(tmp_path / "c.json", allow_missing=True).exit_code == 6


def test_an_extra_file_is_a_warning(certify, keys):
    path = certify().path
    (path.parent / "figures" / "notes.txt").write_text("later")
    found = verify(path, trust=[keys.public])
    assert found.exit_code == 0
    assert found.warnings == ("figures/notes.txt is not listed in the certificate",)


def test_a_link_in_place_of_a_file_is_damage(certify, keys, tmp_path):
    path = certify().path
    model = path.parent / "model.safetensors"
    shutil.copy(model, tmp_path / "elsewhere")
    model.unlink()
    model.symlink_to(tmp_path / "elsewhere")
    assert verify(path, trust=[keys.public]).exit_code == 2


@pytest.fixture(scope="module")
def flipping(tmp_path_factory, template, keys):
    """One certified folder for all flips; each puts its file back."""
    folder = tmp_path_factory.mktemp("flips") / "run"
    shutil.copytree(template, folder)
    issue(folder, collect(Sources(folder=folder, sidecar=Sidecar.new(("a",)))), key=keys.key)
    return folder


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([CERTIFICATE_FILE, "report.json", "model.safetensors", "scores.safetensors"]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_any_flipped_bit_is_found(flipping, keys, name, place, bit):
    path = flipping / name
    sound = path.read_bytes()
    data = bytearray(sound)
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        assert verify(flipping, trust=[keys.public]).exit_code == 2
    finally:
        path.write_bytes(sound)


def test_flipped_digits_of_the_signature_are_found(flipping, keys):
    """Hexadecimal digits in their other case or as their neighbours: one signature has one spelling."""
    path = flipping / CERTIFICATE_FILE
    sound = path.read_bytes()
    start = sound.index(b'"value":"', sound.index(b'"signature":')) + len(b'"value":"')
    try:
        for place in range(start, start + 128, 3):
            for flip in (0x01, 0x20):
                path.write_bytes(sound[:place] + bytes([sound[place] ^ flip]) + sound[place + 1 :])
                assert verify(flipping, trust=[keys.public]).exit_code == 2
    finally:
        path.write_bytes(sound)


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_any_cut_is_found(flipping, keys, cut):
    path = flipping / CERTIFICATE_FILE
    sound = path.read_bytes()
    path.write_bytes(sound[: int(cut * len(sound))])
    try:
        assert verify(flipping, trust=[keys.public]).exit_code == 2
    finally:
        path.write_bytes(sound)


def test_intervals_are_computed_again_from_the_scores(certify, keys):
    """A signer who certifies an AUC that his own scores do not give is found out."""
    path = certify().path
    certificate = unseal(path.read_bytes()).certificate
    first, *rest = certificate.audits
    for field, value in (("low", first.auc.low + 1e-3), ("value", first.auc.value - 1e-3), ("level", 0.9)):
        flattered = replace(first, auc=replace(first.auc, **{field: value}))
        path.write_bytes(seal(replace(certificate, audits=(flattered, *rest)), keys.key))
        found = verify(path, trust=[keys.public])
        assert (found.exit_code, found.check("intervals").state) == (2, "failed")
    fewer = replace(first, members=first.members - 1)
    path.write_bytes(seal(replace(certificate, audits=(fewer, *rest)), keys.key))
    assert "40 and 60 scores" in verify(path, trust=[keys.public]).check("intervals").detail


def test_intervals_that_scores_alone_do_not_give_are_not_checked(certify, keys):
    path = certify().path
    certificate = unseal(path.read_bytes()).certificate
    crossed = tuple(replace(a, auc=replace(a.auc, method="DeLong, cross-fitted")) for a in certificate.audits)
    path.write_bytes(seal(replace(certificate, audits=crossed), keys.key))
    found = verify(path, trust=[keys.public])
    assert (found.exit_code, found.check("intervals").state) == (0, "not_checked")


def test_a_digest_that_is_not_the_models_is_damage(certify, keys):
    path = certify().path
    certificate = unseal(path.read_bytes()).certificate
    after = replace(certificate.models.after, tensor_digest="0" * 64)
    path.write_bytes(seal(replace(certificate, models=replace(certificate.models, after=after)), keys.key))
    found = verify(path, trust=[keys.public])
    assert (found.exit_code, found.check("model").state) == (2, "failed")


def test_weights_in_another_file_are_compared_by_their_tensors(certify, keys, tmp_path):
    path = certify().path
    tensors = load_file(path.parent / "model.safetensors")
    save_file(tensors, tmp_path / "deployed.safetensors", metadata={"format": "pt"})
    assert verify(path, trust=[keys.public], model=tmp_path / "deployed.safetensors").exit_code == 0
    tensors["0.bias"] = np.nextafter(tensors["0.bias"], np.float32(1))
    save_file(tensors, tmp_path / "deployed.safetensors")
    found = verify(path, trust=[keys.public], model=tmp_path / "deployed.safetensors")
    assert (found.exit_code, found.check("model").state) == (2, "failed")


def test_a_model_in_shards_beside_its_scores(template, keys, sidecar, tmp_path):
    """The shards' tensors have the digest of the single file, and the scores are none of them."""
    folder = tmp_path / "run"
    shutil.copytree(template, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for number, name in enumerate(tensors):
        save_file({name: tensors[name]}, folder / f"model-{number}.safetensors")
    issued = issue(folder, collect(Sources(folder=folder, sidecar=sidecar)), key=keys.key)
    after = issued.certificate.models.after
    assert [file.name for file in after.files] == ["model-0.safetensors", "model-1.safetensors"]
    assert after.tensor_digest == tensor_digest(template / "model.safetensors")
    assert verify(folder, trust=[keys.public]).check("model").state == "passed"
    (folder / "model-1.safetensors").unlink()
    found = verify(folder, trust=[keys.public])
    assert (found.exit_code, found.check("model").state) == (6, "not_checked")


def test_inclusion_in_the_request(certify, keys, sidecar):
    path = certify().path
    found = verify(path, trust=[keys.public], proof=sidecar.prove("person-cle"))
    assert (found.exit_code, found.check("inclusion").state) == (0, "passed")
    for proof in (replace(sidecar.prove("person-cle"), record="zoe"), Sidecar.new(("person-cle",)).prove("person-cle")):
        assert verify(path, trust=[keys.public], proof=proof).exit_code == 2
    rootless = replace(unseal(path.read_bytes()).certificate.subjects, count=4)
    certificate = replace(unseal(path.read_bytes()).certificate, subjects=rootless)
    path.write_bytes(seal(certificate, keys.key))
    assert verify(path, trust=[keys.public], proof=sidecar.prove("person-cle")).exit_code == 2


@pytest.fixture
def chain(certify):
    first = certify("0")
    second = certify("1", previous=first.path)
    return first, second, certify("2", previous=second.path.parent)


def test_a_chain_of_three(chain, keys):
    first, second, third = (issued.path for issued in chain)
    assert [one.certificate.sequence for one in chain] == [0, 1, 2]
    assert third.read_bytes().count(sha256(second.read_bytes()).encode()) == 1
    trust = [keys.public]
    assert verify(third, trust=trust).check("chain").state == "not_checked"
    assert verify(third, trust=trust, previous=[second]).check("chain").state == "passed"
    found = verify(third, trust=trust, previous=[first, second])
    assert (found.exit_code, found.check("chain").state) == (0, "passed")
    assert "back to number 0" in found.check("chain").detail


def test_a_cut_out_middle_is_found(chain, keys):
    first, _, third = (issued.path for issued in chain)
    found = verify(third, trust=[keys.public], previous=[first])
    assert (found.exit_code, found.check("chain").state) == (2, "failed")


def test_a_swapped_middle_is_found(chain, certify, keys):
    """Even one that the same key signed, with the same number and the same predecessor."""
    first, second, third = (issued.path for issued in chain)
    other = certify("other", previous=first, facts=OTHER).path
    assert verify(other, trust=[keys.public], previous=[first]).exit_code == 0
    assert verify(third, trust=[keys.public], previous=[first, other]).exit_code == 2
    assert verify(third, trust=[keys.public], previous=[first, second, second]).exit_code == 2
    second.write_bytes(second.read_bytes().replace(b'"toy"', b'"tox"'))
    assert verify(third, trust=[keys.public], previous=[first, second]).exit_code == 2


def test_a_cut_off_tail_cannot_be_seen_and_the_certificate_says_so(chain, keys):
    first, second, _ = (issued.path for issued in chain)
    found = verify(second, trust=[keys.public], previous=[first])
    assert found.exit_code == 0
    assert any("cut off" in line for line in found.sealed.certificate.cannot_establish)


def test_a_missing_previous_certificate(chain, keys, tmp_path):
    found = verify(chain[2].path, trust=[keys.public], previous=[tmp_path / "absent.json"])
    assert (found.exit_code, found.check("chain").state) == (6, "not_checked")


def test_only_number_0_has_no_previous(chain, keys):
    certificate = unseal(chain[0].path.read_bytes()).certificate
    for change in ({"sequence": 1}, {"sequence": -1}, {"previous": "0" * 64}):
        with pytest.raises(DataError, match="of a chain"):
            seal(replace(certificate, **change), keys.key)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../b", "a\\b", "c:d", "", ".", "e\u0301", CERTIFICATE_FILE]
)
def test_a_manifest_stays_in_its_folder(certify, keys, name):
    certificate = unseal(certify().path.read_bytes()).certificate
    entry = replace(certificate.manifest[0], path=name)
    manifest = tuple(sorted([entry, *certificate.manifest], key=lambda one: one.path))
    with pytest.raises(DataError, match=r"path|NFC|itself"):
        seal(replace(certificate, manifest=manifest), keys.key)
