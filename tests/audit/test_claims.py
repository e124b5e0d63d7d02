"""Claims: which state follows from which interval, alone and within a family."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from amu_fast.audit.claims import (
    Claim,
    State,
    accuracy_claim,
    auc_claim,
    over_unlearning_claim,
    resolve,
    tpr_claim,
)
from amu_fast.audit.controls import Control, shortfalls
from amu_fast.audit.intervals import Interval, normal_quantile, t_interval
from amu_fast.audit.reasons import Reason
from amu_fast.audit.regions import inside, outside, too_wide
from amu_fast.errors import DataError


def at(value, error, scope="this model", sizes=(500, 500)):
    """A normal interval of known standard error at any level."""

    def interval(level):
        half = normal_quantile(level) * error
        return Interval(value, value - half, value + half, level, scope, "normal", sizes)

    return interval


GOOD = (Control.positive(at(0.2, 0.01)(0.9), 0.05), Control.negative(at(0.0, 0.01)(0.9), 0.05))


def auc(value, error=0.01, name="loss: AUC", fixed=True, controls=GOOD, **options):
    return auc_claim(name, at(value, error), 0.05, fixed_direction=fixed, controls=controls, **options)


@pytest.mark.parametrize(
    ("value", "error", "state", "reasons"),
    [
        (0.0, 0.01, State.HOLDS, ()),
        (0.033, 0.01, State.HOLDS, ()),  # .033 + 1.645 x .01 < .05
        (0.034, 0.01, State.UNDECIDED, (Reason.INTERVAL_CROSSES_MARGIN,)),
        (0.068, 0.01, State.UNDECIDED, (Reason.INTERVAL_CROSSES_MARGIN,)),  # outside at 90 %, not at 95 %
        (0.070, 0.01, State.VIOLATED, (Reason.LEAKS,)),  # .070 - 1.96 x .01 > .05
        (-0.070, 0.01, State.VIOLATED, (Reason.OVER_UNLEARNED,)),
        (0.01, 0.03, State.NOT_EVALUABLE, (Reason.TOO_SMALL_FOR_MARGIN,)),  # 2.93 x .03 > .05: no power even at 0
        (0.0, 0.03, State.HOLDS, ()),  # 1.645 x .03 < .05: luck, at the test's own 5 %
    ],
)
def test_state_follows_from_the_interval(value, error, state, reasons):
    claim = auc(value, error)
    assert (claim.state, claim.reasons) == (state, reasons)
    assert (claim.interval.level, claim.simultaneous.level) == (0.9, 0.95)


def test_a_violation_stands_however_few_rows_show_it():
    assert auc(0.3, 0.05).state is State.VIOLATED


def test_a_trained_attack_says_nothing_below_its_reference():
    below, above = auc(-0.2, fixed=False), auc(0.2, fixed=False)
    assert (below.state, below.reasons) == (State.UNDECIDED, (Reason.BELOW_REFERENCE,))
    assert above.state is State.VIOLATED
    assert auc(0.0, fixed=False).state is State.HOLDS


def test_over_unlearning_is_one_sided():
    def over(value):
        return over_unlearning_claim("over", at(value, 0.01), 0.05, controls=GOOD)

    assert over(0.4).state is State.HOLDS
    assert over(-0.04).state is State.UNDECIDED
    assert (over(-0.2).state, over(-0.2).reasons) == (State.VIOLATED, (Reason.OVER_UNLEARNED,))


def test_rate_stays_below_its_bound():
    controls = (Control.positive(at(0.2, 0.01)(0.9), 0.03), Control.negative(at(0.01, 0.005)(0.9), 0.03, "at_most"))
    states = [tpr_claim("t", at(v, 0.005), 0.03, controls=controls).state for v in (0.0, 0.01, 0.03, 0.06)]
    assert states == [State.HOLDS, State.HOLDS, State.UNDECIDED, State.VIOLATED]


def test_accuracy_may_be_better_only_where_it_is_non_inferior():
    better, worse = at(0.05, 0.003), at(-0.05, 0.003)
    assert accuracy_claim("test", better, 0.01, side="at_least").state is State.HOLDS
    assert accuracy_claim("retain", better, 0.01).reasons == (Reason.ACCURACY_ABOVE,)
    assert accuracy_claim("test", worse, 0.01, side="at_least").reasons == (Reason.ACCURACY_BELOW,)
    assert accuracy_claim("test", worse, 0.01).in_game is None


def test_controls_that_fail_or_lack_make_it_not_evaluable():
    blind = Control.positive(at(0.06, 0.01)(0.9), 0.05)  # .06 - 1.645 x .01 < .05
    shifted = Control.negative(at(0.1, 0.01)(0.9), 0.05)
    assert auc(0.0, controls=(blind, GOOD[1])).reasons == (Reason.POSITIVE_CONTROL_FAILED,)
    assert auc(0.0, controls=(GOOD[0], shifted)).reasons == (Reason.NEGATIVE_CONTROL_FAILED,)
    assert auc(0.0, controls=()).reasons == (Reason.POSITIVE_CONTROL_MISSING, Reason.NEGATIVE_CONTROL_MISSING)
    for controls in ((blind, GOOD[1]), (GOOD[0], shifted), (GOOD[0],), ()):
        assert auc(0.5, controls=controls).state is State.NOT_EVALUABLE, "a shift is never a violation"
    assert shortfalls(GOOD) == ()


def test_what_was_not_measured_or_is_no_number_is_not_evaluable():
    assert auc_claim("a", None, 0.05, fixed_direction=True, controls=GOOD).reasons == (Reason.SKIPPED,)
    assert auc(math.nan).reasons == (Reason.NOT_A_NUMBER,)
    assert auc(math.nan).to_plain()["interval"]["value"] is None
    assert accuracy_claim("test", at(0.0, math.inf), 0.01).reasons == (Reason.NOT_A_NUMBER,)


def test_a_claim_about_the_algorithm_needs_five_units():
    units = [0.001, -0.001, 0.002, 0.0]
    few = accuracy_claim("test", lambda level: t_interval(units, level), 0.02)
    assert few.reasons == (Reason.TOO_FEW_UNITS,)
    enough = accuracy_claim("test", lambda level: t_interval([*units, -0.002], level), 0.02)
    assert (enough.state, enough.interval.scope) == (State.HOLDS, "the algorithm")


def test_holm_decides_within_the_required_claims():
    """z = 2.2 beyond the margin: violated alone (1.96), not as one of three (2.39); z = 2.5 is, and then z = 2.3 is."""
    error = 0.01

    def family(*distances):
        claims = [auc(0.05 + z * error, error, name=f"attack {i}") for i, z in enumerate(distances)]
        return [claim.state is State.VIOLATED for claim in resolve(claims)]

    assert auc(0.05 + 2.2 * error, error).state is State.VIOLATED
    assert family(2.2, -5.0, -5.0) == [False, False, False]
    assert family(2.5, 2.3, -5.0) == [True, True, False]
    assert family(2.3, 2.3, -5.0) == [False, False, False]


def test_claims_that_are_not_required_do_not_dilute_the_required_ones():
    required = auc(0.05 + 2.2 * 0.01)
    rest = [auc(0.0, name=f"other {i}", required=False) for i in range(9)]
    assert resolve([required, *rest])[0].state is State.VIOLATED
    assert [c.name for c in resolve([*rest, required])] == [f"other {i}" for i in range(9)] + ["loss: AUC"]


def test_claims_that_cannot_be_evaluated_count_in_the_family():
    missing = [auc_claim(f"m{i}", None, 0.05, fixed_direction=True, controls=GOOD) for i in range(2)]
    claim = resolve([auc(0.05 + 2.2 * 0.01), *missing])[0]
    assert claim.state is State.UNDECIDED
    assert claim.simultaneous.level == pytest.approx(1 - 0.05 / 3)
    blocked = [auc(0.5, name=f"b{i}", controls=()) for i in range(2)]
    assert resolve([auc(0.05 + 2.2 * 0.01), *blocked])[0].state is State.UNDECIDED


def test_settling_twice_changes_nothing_and_settled_claims_stay():
    claims = resolve([auc(0.2), auc(0.0, name="b")])
    assert resolve(claims) == claims
    from_file = replace(claims[0], at=None)
    assert resolve([from_file])[0] == from_file


def test_names_and_margins_are_checked():
    with pytest.raises(DataError, match="different names"):
        resolve([auc(0.0), auc(0.1)])
    with pytest.raises(DataError, match=r"must be > 0, got -0\.05; fix it before the audit"):
        Claim("a", "auc", -0.05)


def test_regions():
    interval = at(0.0, 0.01)(0.9)
    assert inside(interval, 0.02, "both")
    assert not inside(interval, 0.016, "both")
    assert inside(at(1.0, 0.01)(0.9), 0.02, "at_least")
    assert inside(at(-1.0, 0.01)(0.9), 0.02, "at_most")
    assert [outside(at(1.0, 0.01)(0.9), 0.02, side) for side in ("both", "at_least", "at_most")] == [True, False, True]
    # (z_.95 + z_.90) = 2.9264 and (z_.95 + z_.80) = 2.4865 standard errors of .01.
    assert [too_wide(interval, m, "both") for m in (0.02926, 0.02927)] == [True, False]
    assert [too_wide(interval, m, "at_least") for m in (0.02486, 0.02487)] == [True, False]


def test_plain_form_is_json():
    import json

    plain = json.loads(json.dumps(auc(0.2).to_plain()))
    assert (plain["state"], plain["reasons"], plain["margin"]) == ("VIOLATED", ["leaks"], 0.05)
    assert [c["passed"] for c in plain["controls"]] == [True, True]
    assert plain["interval"]["sizes"] == [500, 500]
    assert np.isclose(plain["interval"]["low"], 0.2 - 1.6449 * 0.01, atol=1e-5)
