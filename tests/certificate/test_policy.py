"""A policy is fixed before the audit, or there is no certificate; a verdict says no more than its claims."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from enum import Enum

import pytest
from certified import Claim, Judged

from amu_fast.audit.intervals import Interval
from amu_fast.certificate import Facts, Policy, Sidecar, Sources, Unknown, collect, read_verdict, verify
from amu_fast.certificate.canonical import canonical_bytes
from amu_fast.certificate.policy import RequiredClaim, instant
from amu_fast.certificate.sealing import seal, unseal
from amu_fast.errors import DataError

HOLDS = (Claim("attack_auc", "HOLDS"), Claim("test_accuracy", "HOLDS", kind="accuracy", side="at_least"))
BEYOND = Interval(0.2, 0.1, 0.3, 0.975, "this model", "paired DeLong", (500, 500))
VIOLATED = Claim("attack_auc", "VIOLATED", reasons=("leaks",), interval=BEYOND, simultaneous=BEYOND)


def test_a_policy_comes_back(policy, tmp_path):
    path = policy.save(tmp_path / "policy.json")
    assert Policy.load(path) == policy
    assert json.loads(path.read_bytes())["policy_hash"] == policy.policy_hash
    assert replace(policy, note="other").policy_hash != policy.policy_hash


def test_a_policy_edited_after_it_was_sealed_is_refused(policy, tmp_path):
    path = policy.save(tmp_path / "policy.json")
    path.write_bytes(path.read_bytes().replace(b'"0.050000"', b'"0.500000"'))
    with pytest.raises(DataError, match="edited after it was sealed"):
        Policy.load(path)


def test_a_policy_written_after_the_audit_gives_no_certificate(certify, policy, tmp_path):
    with pytest.raises(DataError, match="no certificate: policy_after_audit"):
        certify(policy=policy, facts=Facts(audited_at="2020-01-01T00:00:00Z"))
    assert not (tmp_path / "run" / "certificate.json").exists()


def test_without_a_stated_time_the_reports_file_dates_the_audit(certify, policy, template):
    time = instant((template / "report.json").stat().st_mtime)
    issued = certify(policy=replace(policy, written_at="2020-01-01T00:00:00Z"))
    record = issued.certificate.policy
    assert (record.audited_at, record.clock) == (time, "time of the file report.json")
    with pytest.raises(DataError, match="policy_after_audit"):
        certify("late", policy=replace(policy, written_at="2999-01-01T00:00:00Z"))


def test_a_policy_exchanged_in_the_certificate_is_damage(certify, policy, later, keys):
    """Even by the signer: wider margins do not fit the hash, an earlier audit not the time."""
    path = certify(policy=policy, facts=later).path
    assert verify(path, trust=[keys.public]).exit_code == 0
    certificate = unseal(path.read_bytes()).certificate
    wider = replace(policy, required=(RequiredClaim(name="attack_auc", margin=0.5), policy.required[1]))
    with pytest.raises(DataError, match="it was edited"):
        seal(replace(certificate, policy=replace(certificate.policy, policy=wider)), keys.key)
    early = replace(certificate.policy, audited_at="2020-01-01T00:00:00Z")
    with pytest.raises(DataError, match="policy_after_audit"):
        seal(replace(certificate, policy=early), keys.key)


@pytest.mark.parametrize(
    ("margins", "references", "reasons"),
    [
        ({}, ("none",), ("no_required_claim",)),
        ({"a": 0.1}, ("none",), ("claims_not_judged",)),
        ({"a": 0.1}, ("retrained",), ("claims_not_judged", "reference_not_allowed")),
    ],
)
def test_without_a_verdict_a_certificate_is_inconclusive(certify, later, keys, margins, references, reasons):
    made = Policy.create("p", margins, references=references)
    issued = certify(policy=made, facts=later)
    assert (issued.certificate.verdict.outcome, issued.certificate.verdict.reasons) == ("inconclusive", reasons)
    found = verify(issued.path, trust=[keys.public])
    assert (found.exit_code, found.verdict_exit_code) == (0, 3)


def test_without_a_policy_a_certificate_is_inconclusive(certify):
    verdict = certify().certificate.verdict
    assert (verdict.outcome, verdict.reasons) == ("inconclusive", ("no_policy", "no_required_claim"))


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Judged("meets_policy", 0, ("all_hold",), HOLDS), 0),
        (Judged("fails", 1, ("violated",), (VIOLATED, HOLDS[1])), 1),
        (Judged("inconclusive", 3, ("claim_undecided",), (Claim("attack_auc", "UNDECIDED"), HOLDS[1])), 3),
        (Judged("inconclusive", 3, ("no_outside_attack",), HOLDS), 3),
    ],
)
def test_a_verdicts_code_is_given_for_a_trusted_certificate_only(certify, policy, later, keys, verdict, code):
    path = certify(policy=policy, facts=later, verdict=verdict).path
    assert verify(path, trust=[keys.public]).verdict_exit_code == code
    assert verify(path).verdict_exit_code == 4
    (path.parent / "report.json").write_text("{}")
    assert verify(path, trust=[keys.public]).verdict_exit_code == 2


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (Judged("meets_policy", 0, ("ok",), ()), "without a required claim"),
        (Judged("meets_policy", 0, ("ok",), HOLDS[:1]), "not those that the policy requires"),
        (Judged("meets_policy", 0, ("ok",), (*HOLDS, Claim("more", "HOLDS"))), "not those that the policy requires"),
        (Judged("meets_policy", 0, ("ok",), (replace(HOLDS[0], margin=0.5), HOLDS[1])), "not those that the policy"),
        (
            Judged("meets_policy", 0, ("ok",), (replace(HOLDS[0], required=False), HOLDS[1])),
            "not those that the policy",
        ),
        (Judged("meets_policy", 0, ("ok",), (HOLDS[0], replace(HOLDS[1], state="UNDECIDED"))), "does not hold"),
        (Judged("meets_policy", 0, ("ok",), (VIOLATED, HOLDS[1])), "a required claim violated"),
        (Judged("meets_policy", 0, ("ok",), (replace(HOLDS[0], interval=BEYOND), HOLDS[1])), "not inside its margin"),
        (Judged("meets_policy", 0, ("ok",), (replace(HOLDS[0], interval=None), HOLDS[1])), "not inside its margin"),
        (Judged("fails", 1, ("bad",), (replace(HOLDS[0], state="VIOLATED"), HOLDS[1])), "not beyond its margin"),
        (Judged("fails", 1, ("bad",), (replace(VIOLATED, side="at_least"), HOLDS[1])), "not beyond its margin"),
        (Judged("fails", 1, ("bad",), HOLDS), "no required claim violated"),
        (Judged("inconclusive", 3, ("x",), (VIOLATED, HOLDS[1])), "a required claim violated"),
        (Judged("meets_policy", 0, ("ok",), (*HOLDS, HOLDS[0])), "occurs twice"),
        (Judged("meets_policy", 0, (), HOLDS), "gives no reason"),
        (Judged("meets_policy", 1, ("ok",), HOLDS), "exit code 1"),
        (Judged("compliant", 0, ("ok",), HOLDS), "no verdict has the outcome"),
        (Judged("no_certificate", 2, ("splits_overlap",), ()), "no certificate: splits_overlap"),
    ],
)
def test_a_verdict_that_its_claims_do_not_carry_gives_no_certificate(certify, policy, later, verdict, message):
    with pytest.raises(DataError, match=message):
        certify(policy=policy, facts=later, verdict=verdict)


def test_a_verdict_from_its_json_and_from_enums_is_the_same(certify, policy, later, tmp_path):
    class State(str, Enum):
        VIOLATED = "VIOLATED"

    class Reason(str, Enum):
        LEAKS = "leaks"

    claims = (replace(VIOLATED, state=State.VIOLATED, reasons=(Reason.LEAKS,)), HOLDS[1])
    verdict = Judged("fails", 1, (Reason.LEAKS,), claims)
    path = tmp_path / "verdict.json"
    path.write_text(json.dumps(asdict(verdict)))
    first = certify("a", policy=policy, facts=later, verdict=verdict).certificate.verdict
    assert certify("b", policy=policy, facts=later, verdict=read_verdict(path)).certificate.verdict == first
    assert (first.reasons, first.claims[0].state, first.claims[0].reasons) == (("leaks",), "VIOLATED", ("leaks",))
    assert first.claims[0].simultaneous.low == 0.1
    with pytest.raises(DataError, match="cannot read"):
        read_verdict(tmp_path / "absent")
    path.write_text("{}")
    with pytest.raises(DataError, match="is no verdict"):
        read_verdict(path)


def test_no_pass_without_a_required_claim(certify, later):
    """all([]) is true; an empty policy is met by everything and shows nothing."""
    with pytest.raises(DataError, match="without a required claim"):
        certify(policy=Policy.create("empty", {}), facts=later, verdict=Judged("meets_policy", 0, ("ok",), ()))


def test_no_pass_without_a_policy_or_against_another_reference(certify, policy, later):
    verdict = Judged("meets_policy", 0, ("ok",), HOLDS)
    with pytest.raises(DataError, match="needs a policy"):
        certify("a", verdict=verdict)
    with pytest.raises(DataError, match="a reference it does not allow: none"):
        certify("b", policy=replace(policy, references=("retrained",)), facts=later, verdict=verdict)


def test_policies_that_are_none(tmp_path, policy):
    with pytest.raises(DataError, match="must be at least 1e-06"):
        Policy.create("p", {"a": 0.0})
    with pytest.raises(DataError, match="own name"):
        replace(policy, required=policy.required[:1] * 2)
    with pytest.raises(DataError, match="cannot read"):
        Policy.load(tmp_path / "absent")
    (tmp_path / "x.json").write_bytes(canonical_bytes({"schema": "x"}))
    with pytest.raises(DataError, match="not an amu-policy/1"):
        Policy.load(tmp_path / "x.json")


def test_a_policy_needs_the_time_of_the_audit(certify, policy, template, tmp_path):
    with pytest.raises(DataError, match="audited_at"):
        collect(Sources(folder=tmp_path, sidecar=Sidecar.new(), policy=policy))
    assert isinstance(collect(Sources(folder=tmp_path, sidecar=Sidecar.new())).policy, Unknown)
