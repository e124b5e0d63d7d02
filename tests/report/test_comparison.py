"""The headline table: its numbers follow S13, its text says what they are about."""

from __future__ import annotations

import io

import numpy as np
import pytest

from amu_fast.audit.delong import auc_difference
from amu_fast.audit.intervals import accuracy_difference, attained_margin, paired_t, t_interval
from amu_fast.errors import DataError
from amu_fast.report import Comparison, MethodRuns
from amu_fast.report.console import cells, headers, markdown, notes, rich_table

METRICS = ("test_accuracy", "attack_auc")


def runs(name, mean, units=8, seed=0, **more):
    rng = np.random.default_rng(seed)
    differences = {m: tuple(rng.normal(mean, 0.005, units)) for m in METRICS}
    return MethodRuns(name, differences, (2.0,) * units, **more)


@pytest.fixture
def comparison():
    methods = (runs("fine-tune", 0.04, seed=1, collapses=1), runs("Stackelberg", 0.01, seed=2))
    return Comparison(methods, runs("another retrain", 0.0, seed=3), METRICS, "Toy", margins={"attack_auc": 5.0})


def single(name, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(300) < 0.9, rng.random(300) < 0.85
    scores = [(rng.normal(0.5, 1, 100), rng.normal(0, 1, 200)) for _ in range(2)]
    by_level = [
        {"test_accuracy": accuracy_difference(a, b, level), "attack_auc": auc_difference(*scores, level=level)}
        for level in (0.95, 0.90)
    ]
    points = {m: (i.value,) for m, i in by_level[0].items()}
    return MethodRuns(name, points, (1.0,), row_intervals=by_level[0], tost_intervals=by_level[1])


def test_cells_are_the_t_interval_margin_and_gap(comparison):
    tuned = comparison.methods[0]
    row = dict(zip(headers(comparison), cells(comparison, tuned), strict=True))
    interval = t_interval(tuned.differences["attack_auc"]).scaled(100)
    assert row["attack AUC"].startswith(f"{interval.value:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]")
    assert row["attained margin"] == f"{attained_margin(tuned.differences):.1f}"
    gaps = [50 * sum(abs(tuned.differences[m][unit]) for m in METRICS) for unit in range(8)]
    assert tuned.gaps(METRICS) == pytest.approx(gaps)
    assert row["average gap"] == f"{np.mean(gaps):.1f}"
    paired = paired_t(gaps, comparison.floor.gaps(METRICS))
    assert row["gap − floor"] == f"{paired.value:+.1f} [{paired.low:+.1f}, {paired.high:+.1f}]"
    assert row["collapses"] == "1 of 8"
    assert row["seconds"] == "2.0"


def test_only_cells_within_a_margin_fixed_beforehand_are_marked(comparison):
    marks = {r.name: {m: comparison.equivalent(r, m) for m in METRICS} for r in comparison.rows}
    assert marks["Stackelberg"] == {"test_accuracy": False, "attack_auc": True}
    assert comparison.equivalent(comparison.floor, "attack_auc")
    tight = Comparison(comparison.methods, comparison.floor, METRICS, margins={"attack_auc": 1.0})
    assert not tight.equivalent(tight.methods[0], "attack_auc")


def test_superiority_is_the_paired_interval_of_the_gaps(comparison):
    tuned, game = comparison.methods
    interval = comparison.gap_difference(game, tuned)
    assert interval.high < 0
    assert interval.scope == "the algorithm"


def test_units_and_rows_are_told_apart(comparison):
    assert "8 units: 95 % t-intervals over units, for the algorithm" in notes(comparison)[0]
    one = Comparison((single("game", 1),), single("another retrain", 2), METRICS)
    assert "1 unit: 95 % intervals over rows, for this model only" in notes(one)[0]
    assert "gap − floor" not in headers(one)
    row = dict(zip(headers(one), cells(one, one.methods[0]), strict=True))
    interval = one.methods[0].row_intervals["attack_auc"].scaled(100)
    assert row["attack AUC"] == f"{interval.value:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]"
    assert row["attained margin"] == f"{attained_margin(one.methods[0].tost_intervals):.1f}"
    few = Comparison((runs("a", 0.0, 3),), runs("b", 0.0, 3), METRICS)
    assert "3 units" in notes(few)[0]
    assert "5 units are the floor (S2)" in notes(few)[0]


def test_a_single_unit_without_row_intervals_shows_points_only():
    one = Comparison((runs("game", 0.02, 1),), runs("another retrain", 0.0, 1), METRICS)
    row = dict(zip(headers(one), cells(one, one.methods[0]), strict=True))
    assert "[" not in row["attack AUC"]
    assert row["attained margin"] == "–"


def test_markdown_is_a_table(comparison):
    text = markdown(comparison)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3
    assert len({line.count("|") for line in table}) == 1
    assert "another retrain, has" in text
    piped = Comparison((runs("a|b", 0.0),), runs("floor", 0.0), METRICS)
    assert "| a\\|b |" in markdown(piped)


def test_terminal_table_holds_every_row_and_the_notes(comparison):
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=130).print(rich_table(comparison))
    text = stream.getvalue()
    for piece in ("another retrain", "fine-tune", "Stackelberg", "1 of 8", "≈", "S13", "Toy"):
        assert piece in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MethodRuns("m", {"a": (1.0, 2.0)}, (1.0,)), "one value per unit, got lengths"),
        (lambda: Comparison((runs("m", 0, 3),), runs("f", 0, 4), METRICS), "m has 3 units and the floor 4"),
        (lambda: Comparison((), runs("f", 0), ("ks",)), r"f lacks the metrics \['ks'\]"),
        (lambda: Comparison((), runs("f", 0), ()), "at least 1 metric"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(DataError, match=message):
        call()
