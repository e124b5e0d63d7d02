"""The verdict's table, row by row, and what outranks what."""

from __future__ import annotations

import itertools
import json

import pytest

from amu_fast.audit.claims import accuracy_claim, auc_claim, over_unlearning_claim
from amu_fast.audit.controls import Control
from amu_fast.audit.intervals import Interval, normal_quantile
from amu_fast.audit.reasons import Reason
from amu_fast.audit.verdict import ChanceProof, Conditions, decide


def at(value, error=0.005):
    def interval(level):
        half = normal_quantile(level) * error
        return Interval(value, value - half, value + half, level, "this model", "normal", (500, 500))

    return interval


GOOD = (Control.positive(at(0.2)(0.9), 0.05), Control.negative(at(0.0)(0.9), 0.05))


def claims(leak=0.0, utility=0.0, in_game=False, controls=GOOD, over=True):
    made = [
        auc_claim("AUC", at(leak), 0.05, fixed_direction=True, controls=controls, in_game=in_game),
        accuracy_claim("test", at(utility, 0.001), 0.01, side="at_least"),
    ]
    if over:
        made.append(over_unlearning_claim("over", at(leak), 0.05, controls=controls, in_game=in_game))
    return made


def test_all_claims_hold():
    verdict = decide(claims())
    assert (verdict.outcome, verdict.exit_code, verdict.reasons) == ("meets_policy", 0, ("all_claims_hold",))
    assert [c.name for c in verdict.claims] == ["AUC", "test", "over"]
    assert verdict.sentences == ("All required claims hold.",)


@pytest.mark.parametrize("name", ["splits_overlap", "reference_saw_forget_rows", "policy_after_audit", "file_damaged"])
def test_no_certificate(name):
    for made in (claims(), claims(leak=0.3), []):
        verdict = decide(made, Conditions(**{name: True}))
        assert (verdict.outcome, verdict.exit_code, verdict.reasons[0]) == ("no_certificate", 2, name)


@pytest.mark.parametrize("made", [claims(leak=0.3), claims(utility=-0.05), claims(leak=-0.3)])
def test_any_violated_claim_fails(made):
    verdict = decide(made)
    assert (verdict.outcome, verdict.exit_code, verdict.reasons[0]) == ("fails", 1, "claim_violated")
    worse = decide(made, Conditions(reference="none"))
    assert worse.outcome == "fails", "a violation outranks an unproven reference"
    assert "reference_not_allowed" in worse.reasons


def test_no_claims_are_no_pass():
    verdict = decide([])
    assert (verdict.outcome, verdict.exit_code) == ("inconclusive", 3)
    assert verdict.reasons == ("no_required_claim", "no_outside_attack", "no_over_unlearning_claim")
    optional = [auc_claim("AUC", at(0.0), 0.05, fixed_direction=True, controls=GOOD, required=False)]
    assert decide(optional).reasons == verdict.reasons


def test_attacks_of_the_game_alone_show_nothing():
    verdict = decide(claims(in_game=True))
    assert (verdict.outcome, verdict.reasons) == ("inconclusive", ("no_outside_attack", "all_claims_hold"))


def test_an_attack_that_sees_nothing_shows_nothing():
    blind = (Control.positive(at(0.01)(0.9), 0.05), GOOD[1])
    verdict = decide(claims(controls=blind))
    assert verdict.outcome == "inconclusive"
    assert verdict.reasons == ("no_outside_attack", "claim_not_evaluable", "positive_control_failed")


def test_over_unlearning_must_be_claimed():
    assert decide(claims(over=False)).reasons[0] == "no_over_unlearning_claim"


def test_undecided_is_inconclusive():
    verdict = decide(claims(utility=-0.0095))
    assert (verdict.outcome, verdict.reasons) == ("inconclusive", ("claim_undecided", "interval_crosses_margin"))


def test_a_claim_that_is_not_required_decides_nothing():
    extra = auc_claim("extra", at(0.4), 0.05, fixed_direction=True, controls=GOOD, required=False)
    verdict = decide([*claims(), extra])
    assert verdict.outcome == "meets_policy"
    assert verdict.claims[-1].reasons == (Reason.LEAKS,)


@pytest.mark.parametrize(
    ("conditions", "reasons"),
    [
        (Conditions(reference="none", chance_proven=True), ("reference_not_allowed",)),
        (Conditions(reference="none", allowed=("none",)), ("reference_unproven",)),
        (Conditions(reference="none"), ("reference_not_allowed", "reference_unproven")),
        (Conditions(reference="proxy"), ("reference_not_allowed",)),
    ],
)
def test_reference_must_be_allowed_and_proven(conditions, reasons):
    verdict = decide(claims(), conditions)
    assert (verdict.outcome, verdict.reasons) == ("inconclusive", (*reasons, "all_claims_hold"))


def test_allowed_and_proven_reference_passes():
    for conditions in (
        Conditions(reference="none", allowed=("none",), chance_proven=True),
        Conditions(reference="proxy", allowed=("retrained", "proxy")),
    ):
        assert decide(claims(), conditions).outcome == "meets_policy"


def test_every_combination_takes_the_first_row():
    """The outcome is a function of the first row alone, whatever else applies."""
    for damaged, leak, utility, reference in itertools.product(
        (False, True), (0.0, 0.3), (0.0, -0.0095), ("retrained", "none")
    ):
        verdict = decide(claims(leak, utility), Conditions(file_damaged=damaged, reference=reference))
        expected = "no_certificate" if damaged else "fails" if leak else None
        if expected is None:
            expected = "inconclusive" if utility or reference == "none" else "meets_policy"
        assert verdict.outcome == expected


def test_chance_is_proven_by_a_random_draw_or_by_two_measurements():
    near, far = at(0.01)(0.9), at(0.04)(0.9)
    assert ChanceProof(random_draw=True).proven(0.001)
    assert ChanceProof(outsider=near, model_free=near).proven(0.05)
    assert not ChanceProof(outsider=near, model_free=far).proven(0.045)
    assert not ChanceProof(outsider=near).proven(0.05)
    assert not ChanceProof().proven(0.05)


def test_plain_form_is_json():
    plain = json.loads(json.dumps(decide(claims(leak=0.3)).to_plain()))
    assert (plain["outcome"], plain["exit_code"]) == ("fails", 1)
    assert plain["reasons"] == ["claim_violated", "leaks"]
    assert [claim["state"] for claim in plain["claims"]] == ["VIOLATED", "HOLDS", "HOLDS"]


def test_reasons_are_snake_case_and_explained():
    for reason in Reason:
        assert reason.name == reason.value.upper()
        assert reason.value.isidentifier()
        assert reason.sentence.endswith(".")
        assert reason.sentence[0].isupper()
