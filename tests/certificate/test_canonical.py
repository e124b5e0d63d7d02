"""One spelling of every document: what is written otherwise is refused, whatever it means."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amu_fast.certificate.canonical import MAX_INTEGER, canonical_bytes, decimal, parse, undecimal
from amu_fast.errors import DataError

KEYS = st.text("abcXYZ_09/~", min_size=1, max_size=5)
NORMAL = st.text('aZ0 "\\/\n\t\x00\x1f\x7f\u00e9\u20ac\u2028\U0001f600', max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | NORMAL,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def test_example_of_the_standard_without_its_floats():
    """RFC 8785 section 3.2.2 and 3.2.3: escapes, literals, order."""
    value = {"string": '\u20ac$\u000f\nA\'B"\\\\"/', "literals": [None, True, False]}
    expected = '{"literals":[null,true,false],"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    assert canonical_bytes(value) == expected.encode()


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_round_trip_agrees_with_the_standard_library(value):
    """Python's json with sorted keys and no spaces writes the same bytes for ASCII keys."""
    data = canonical_bytes(value)
    assert parse(data) == value
    assert json.loads(data) == value
    assert data == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1}', "RFC 8785"),
        (b'{"a":1}\n', "RFC 8785"),
        (b'{"b":1,"a":2}', "RFC 8785"),
        (b'{"a":"\\u0041"}', "RFC 8785"),
        (b'{"a":-0}', "RFC 8785"),
        (b'{"a":1,"a":1}', "occurs twice"),
        (b'{"x":{"a":1,"b":2,"a":3}}', "'a' occurs twice"),
        (b'{"a":NaN}', "NaN is refused"),
        (b'{"a":-Infinity}', "Infinity is refused"),
        (b'{"a":0.5}', "0.5 is refused"),
        (b'{"a":1e2}', "1e2 is refused"),
        (b'{"a":9007199254740993}', "2\\*\\*53"),
        (b'{"a":' + b"1" * 5000 + b"}", "integer"),
        ('{"\u00e9":1}'.encode(), "ASCII"),
        ('{"a":"e\u0301"}'.encode(), "NFC"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"a":"\xff"}', "not a JSON document"),
        (b'\xef\xbb\xbf{"a":1}', "not a JSON document"),
        (b"[1]", "must be an object"),
        (b"", "not a JSON document"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested"),
        (b'{"a":' * 200_000, "JSON document"),
        (b" " * (1 << 24) + b"{}", "at most"),
    ],
    ids=range(23),
)
def test_other_spellings_are_refused(data, message):
    with pytest.raises(DataError, match=message):
        parse(data)


@pytest.mark.parametrize("value", [{"a": 0.1}, {"a": {1}}, {1: 2}, {"a": 2**53}, {"a": "e\u0301"}])
def test_what_no_body_holds_cannot_be_written(value):
    with pytest.raises(DataError):
        canonical_bytes(value)


@given(st.floats(-1e12, 1e12))
def test_decimals_round_to_half_a_unit_of_the_last_digit_and_come_back(value):
    text = decimal(value)
    assert abs(undecimal(text) - value) <= 0.5e-6 + math.ulp(value)
    assert decimal(undecimal(text)) == text


@pytest.mark.parametrize(
    "text", ["0.1", "0.10", "0.1000000", "-0.000000", "+0.100000", "1e-1", " 0.100000", "nan", 0.1, None]
)
def test_other_spellings_of_a_decimal_are_refused(text):
    with pytest.raises(DataError, match="6 digits"):
        undecimal(text)


def test_numbers_without_a_value_have_no_decimal():
    with pytest.raises(DataError, match="Unknown"):
        decimal(math.nan)
