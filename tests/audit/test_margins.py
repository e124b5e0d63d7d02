"""Margins: their defaults, the rule from tuning units, and a hash that any language can recompute."""

from __future__ import annotations

import hashlib

import pytest

from amu_fast.audit.margins import Margins, auc_margin, canonical
from amu_fast.errors import DataError

DEFAULT = (
    '{"auc":"0.05","forget_accuracy":"0.03","retain_accuracy":"0.01","test_accuracy":"0.01","tpr":"0.03",'
    '"tpr_fpr":"0.01"}'
)


def test_defaults_are_those_of_s8_and_their_hash_is_of_known_bytes():
    assert Margins().canonical() == DEFAULT
    assert Margins().digest == hashlib.sha256(DEFAULT.encode()).hexdigest()
    assert Margins().digest == "a5b6bb4a7a06c51ee0956315a4635f21d87ad1b5d7e35cf839b7e96edb909dc6"


def test_the_hash_tells_margins_apart_and_not_their_spelling():
    assert Margins(auc=0.050).digest == Margins().digest
    assert Margins(auc=0.051).digest != Margins().digest
    assert Margins(tpr=None).digest != Margins().digest


def test_decimals_have_no_exponent_and_no_zeros_at_the_end():
    assert canonical({"b": 1e-7, "a": 10.0, "c": None, "d": 0.1 + 0.2}) == (
        '{"a":"10","b":"0.0000001","c":null,"d":"0.30000000000000004"}'
    )
    with pytest.raises(DataError, match="must be finite"):
        canonical({"a": float("inf")})


@pytest.mark.parametrize(
    ("excess", "margin"),
    [([0.1, 0.2], 0.03), ([0.3, 0.5], 0.05), ([-0.01, -0.02], 0.05), ([0.0], 0.05), (0.1, 0.02)],
)
def test_auc_margin_is_a_fifth_of_the_excess_at_most_five_points(excess, margin):
    assert auc_margin(excess) == pytest.approx(margin)


def test_impossible_margins_are_refused():
    with pytest.raises(DataError, match=r"margin auc must lie in \(0, 1\), got 5; 1 point is 0\.01"):
        Margins(auc=5)
    with pytest.raises(DataError, match="chance attains that"):
        Margins(tpr=0.01)
