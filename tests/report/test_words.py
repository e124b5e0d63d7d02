"""How the page writes numbers."""

from __future__ import annotations

import pytest

from amu_fast.audit.intervals import Interval
from amu_fast.report import words


def interval(level=0.95, scope="this model", method="DeLong", note=""):
    return Interval(-0.012, -0.034, 0.01, level, scope, method, (100, 200), note)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (words.points(-0.0123), "−1.2"),
        (words.points(0.0123), "+1.2"),
        (words.points(-0.0004), "0.0"),
        (words.points(float("nan")), "–"),
        (words.number(-0.5), "−0.500"),
        (words.number(1234.5, 1), "1,234.5"),
        (words.number(None), "–"),
        (words.percent(0.934), "93.4 %"),
        (words.span_points(interval()), "[−3.4, +1.0]"),
        (words.span_number(interval()), "[−0.034, 0.010]"),
        (words.span_percent(interval()), "[−3.4, 1.0]"),
        (words.span_points(None), ""),
        (words.duration(59.94), "59.9 s"),
        (words.duration(125.0), "2 min 5 s"),
        (words.duration(3600.0 * 3 + 600), "3 h 10 min"),
        (words.duration(float("inf")), "–"),
        (words.memory(1536.0), "1.5 KiB"),
        (words.memory(3.0 * 2**40), "3072.0 GiB"),
        (words.metric_title("loss_auc"), "loss AUC"),
        (words.metric_title("loss_auc", {"loss_auc": "mine"}), "mine"),
        (words.threshold("auc")[1], "points, either way"),
        (words.threshold("my_own"), ("my own", "points")),
    ],
)
def test_numbers(text, expected):
    assert text == expected


def test_scopes_name_level_scope_and_methods_once_per_kind():
    said = words.scopes([interval(), interval(method="bootstrap"), None, interval(0.9, "the algorithm", "Student t")])
    assert len(said) == 2
    assert said[0].startswith("Brackets are 95 % intervals for this model only")
    assert said[0].endswith(": DeLong; bootstrap.")
    assert said[1].startswith("Brackets are 90 % intervals for the algorithm")


def test_cautions_are_said_once():
    notes = [interval(note="few rows"), interval(note="few rows"), interval(), None]
    assert words.cautions(notes) == ("few rows",)
