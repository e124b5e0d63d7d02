"""`amu-fast keygen`, `certify` and `verify` as a user meets them: files, output, exit codes."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from dataclasses import asdict

import pytest
from certified import Claim, Judged
from typer.testing import CliRunner

from amu_fast.certificate import Policy, Sidecar
from amu_fast.cli.app import app
from amu_fast.errors import DataError


def amu_fast(*arguments, check: int | None = 0):
    """In this process; a DataError is what `run` turns into exit code 2."""
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    if check is None:
        return done
    assert done.exit_code == check, (done.output, done.exception)
    return done


def refused(*arguments) -> str:
    error = amu_fast(*arguments, check=None).exception
    assert isinstance(error, DataError), error
    return str(error)


@pytest.fixture
def folder(template, tmp_path):
    shutil.copytree(template, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def made(folder, keys, tmp_path):
    """A certified folder, its sidecar beside it."""
    (tmp_path / "ids.txt").write_text("person-ada\nperson-bob\nperson-cle\n")
    amu_fast("certify", folder, "--key", keys.private, "--forget-ids", tmp_path / "ids.txt")
    return folder


def test_as_a_program(made, keys, tmp_path):
    """The console script itself: what it prints, and the exit code."""
    command = [sys.executable, "-m", "amu_fast.cli", "verify", "run", "--trust", keys.public, "--verdict"]
    verified = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert verified.returncode == 3, verified.stderr
    assert verified.stdout.startswith("TRUSTED: run/certificate.json")
    assert "inconclusive (no_policy, no_required_claim)" in verified.stdout
    assert "It cannot establish" in verified.stdout


def test_keygen_as_json(tmp_path):
    found = json.loads(amu_fast("keygen", tmp_path / "k.pem", "--json").stdout)
    assert found["public"] == str(tmp_path / "k.pem.pub")
    assert len(found["key_id"]) == 64
    assert stat.S_IMODE((tmp_path / "k.pem").stat().st_mode) == 0o600
    assert "never overwritten" in refused("keygen", tmp_path / "k.pem")


def test_certify_writes_certificate_and_sidecar(made, keys, tmp_path):
    private = tmp_path / "run.private.json"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert Sidecar.load(private).ids == ("person-ada", "person-bob", "person-cle")
    assert (made / "certificate.json").is_file()


def test_exit_codes_of_verify(made, keys, stranger, tmp_path):
    trust = ("--trust", keys.public)
    amu_fast("verify", made, *trust)
    amu_fast("verify", made / "certificate.json", *trust, "--trust", stranger.public)
    amu_fast("verify", made, *trust, "--verdict", check=3)
    amu_fast("verify", made, "--trust", stranger.public, check=4)
    amu_fast("verify", made, check=4)
    (made / "figures" / "roc.png").unlink()
    amu_fast("verify", made, *trust, check=6)
    amu_fast("verify", made, *trust, "--verdict", check=6)
    amu_fast("verify", made, *trust, "--allow-missing")
    (made / "report.json").write_text("{}")
    amu_fast("verify", made, *trust, "--allow-missing", check=2)
    amu_fast("verify", tmp_path / "absent.json", *trust, check=6)


def test_unsigned_is_asked_for_by_name(folder, keys):
    assert "--key FILE" in refused("certify", folder)
    assert "--key FILE" in refused("certify", folder, "--unsigned", "--key", keys.private)
    amu_fast("certify", folder, "--unsigned")
    amu_fast("verify", folder, "--trust", keys.public, check=5)


def test_verify_as_json(made, keys):
    found = json.loads(amu_fast("verify", made, "--trust", keys.public, "--verdict", "--json", check=3).stdout)
    assert (found["outcome"], found["exit_code"], found["verdict"]["outcome"]) == ("trusted", 3, "inconclusive")
    assert {check["name"]: check["state"] for check in found["checks"]}["inclusion"] == "not_checked"
    assert found["cannot_establish"]


def test_a_proof_for_one_subject(made, keys, tmp_path):
    proof = tmp_path / "proof.json"
    proof.write_bytes(Sidecar.load(tmp_path / "run.private.json").prove("person-bob").to_bytes())
    shown = amu_fast("verify", made, "--trust", keys.public, "--proof", proof).stdout
    assert "the record is one of 3" in shown
    proof.write_bytes(proof.read_bytes().replace(b"person-bob", b"person-eve"))
    amu_fast("verify", made, "--trust", keys.public, "--proof", proof, check=2)
    assert "cannot read" in refused("verify", made, "--proof", tmp_path / "absent")


def test_a_chain_of_two(made, template, keys, tmp_path):
    second = tmp_path / "second"
    shutil.copytree(template, second)
    issued = json.loads(amu_fast("certify", second, "--key", keys.private, "--previous", made, "--json").stdout)
    assert issued["verdict"]["outcome"] == "inconclusive"
    shown = amu_fast("verify", second, "--trust", keys.public, "--previous", made).stdout
    assert "number 1, followed back to number 0" in shown
    amu_fast("verify", second, "--trust", keys.public, "--previous", second, check=2)


def test_policy_facts_and_original(folder, template, keys, tmp_path):
    Policy.create("p", {"attack_auc": 0.05}).save(tmp_path / "policy.json")
    (tmp_path / "facts.yaml").write_text("audited_at: '2999-01-01T00:00:00Z'\nbasis: withdrawn consent\n")
    options = ("--policy", tmp_path / "policy.json", "--facts", tmp_path / "facts.yaml")
    original = ("--original", template / "model.safetensors")
    shown = amu_fast("certify", folder, "--key", keys.private, *options, *original, "--json")
    reasons = json.loads(shown.stdout)["verdict"]["reasons"]
    assert reasons == ["claims_not_judged", "reference_not_allowed"]
    body = json.loads((folder / "certificate.json").read_bytes())
    assert body["request"]["basis"] == "withdrawn consent"
    assert body["models"]["before"]["tensor_digest"] == body["models"]["after"]["tensor_digest"]
    assert body["policy"]["clock"] == "stated by the controller"


def test_a_verdict_given_as_json(folder, policy, keys, tmp_path):
    """Its exit code is that of `verify --verdict`; no_certificate gives none."""
    policy.save(tmp_path / "policy.json")
    (tmp_path / "facts.yaml").write_text("audited_at: '2999-01-01T00:00:00Z'\n")
    claims = (Claim("attack_auc", "HOLDS"), Claim("test_accuracy", "HOLDS"))
    verdict = tmp_path / "verdict.json"
    options = ("--policy", tmp_path / "policy.json", "--facts", tmp_path / "facts.yaml", "--verdict", verdict)
    verdict.write_text(json.dumps(asdict(Judged("no_certificate", 2, ("splits_overlap",), claims))))
    assert "no certificate: splits_overlap" in refused("certify", folder, "--key", keys.private, *options)
    verdict.write_text(json.dumps(asdict(Judged("meets_policy", 0, ("all_claims_hold",), claims))))
    amu_fast("certify", folder, "--key", keys.private, *options)
    amu_fast("verify", folder, "--trust", keys.public, "--verdict")


def test_a_refused_certificate_leaves_no_sidecar(folder, keys, tmp_path):
    Policy.create("p", {"a": 0.1}).save(tmp_path / "policy.json")
    (tmp_path / "facts.yaml").write_text("audited_at: '2020-01-01T00:00:00Z'\n")
    options = ("--policy", tmp_path / "policy.json", "--facts", tmp_path / "facts.yaml")
    assert "policy_after_audit" in refused("certify", folder, "--key", keys.private, *options)
    assert not (tmp_path / "run.private.json").exists()
    assert not (folder / "certificate.json").exists()


def test_secrets_do_not_lie_in_the_folder(folder, keys, tmp_path):
    inside = folder / "figures" / "key.pem"
    shutil.copy2(keys.private, inside)
    assert "keep it elsewhere" in refused("certify", folder, "--key", inside)
    inside.unlink()
    assert "keep it elsewhere" in refused("certify", folder, "--key", keys.private, "--private", folder / "p.json")
    (tmp_path / "run.private.json").touch()
    assert "choose another --private" in refused("certify", folder, "--key", keys.private)


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "one id a line"), (b"a\n\nb", "one id a line"), (b"\xff", "UTF-8")]
)
def test_files_of_ids_that_are_none(folder, keys, tmp_path, data, message):
    (tmp_path / "ids.txt").write_bytes(data)
    assert message in refused("certify", folder, "--key", keys.private, "--forget-ids", tmp_path / "ids.txt")
    assert "cannot read" in refused("certify", folder, "--key", keys.private, "--forget-ids", tmp_path / "absent")
