"""Figures: PNG bytes that repeat, drawn from the right numbers, and what they refuse."""

from __future__ import annotations

import builtins
import math
import struct

import numpy as np
import pytest

from amu_fast.audit.roc import roc_curve
from amu_fast.errors import BackendError, DataError
from amu_fast.report import canvas, figures
from amu_fast.report.figures import GapPoint

RNG = np.random.default_rng(0)
PARTS = {part: np.exp(RNG.normal(mean, 2, 80)) for part, mean in (("retain", -6), ("forget", -4), ("test", -2))}
CURVES = {
    name: roc_curve(RNG.normal(s, 1, 100), RNG.normal(0, 1, 400)) for name, s in (("after", 0.2), ("before", 1.0))
}
HISTORY = {
    "used": tuple(np.arange(50) * 64.0),
    "retain_loss": tuple(RNG.random(50)),
    "payoff": tuple(None if i % 2 else -0.9 + 0.1 * RNG.random() for i in range(50)),
    "permuted_payoff": tuple(None if i % 2 else -1.0 for i in range(50)),
    "gradient_bound": (None, math.nan, *(1e-6,) * 48),
    "game_on": (1.0,) * 50,
}
GAPS = {"fine-tune": [GapPoint(0.05, 3.9, 3.1, 4.7), GapPoint(0.125, 2.0, 1.0, 3.0)], "game": [GapPoint(0.05, 2, 2, 2)]}

DRAWINGS = {
    "losses": lambda: figures.loss_histograms({"before": PARTS, "after": {"forget": [0.0, 1.0], "test": [2.0, 3.0]}}),
    "roc": lambda: figures.roc(CURVES, "Calibrated loss"),
    "players": lambda: figures.player_curves(HISTORY),
    "gaps": lambda: figures.budget_gap(GAPS, (1.0, 1.6)),
}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that a call made, for looking inside."""
    made = []
    really = canvas.png
    monkeypatch.setattr(canvas, "png", lambda figure: made.append(figure) or really(figure))
    return made


@pytest.mark.parametrize("name", DRAWINGS)
def test_png_of_sensible_size_that_repeats(name):
    data = DRAWINGS[name]()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert 400 < width < 4000
    assert 300 < height < 4000
    assert DRAWINGS[name]() == data


@pytest.mark.parametrize("name", DRAWINGS)
def test_axes_are_labelled(drawn, name):
    DRAWINGS[name]()
    axes = drawn[0].axes
    assert axes[-1].get_xlabel()
    assert axes[0].get_ylabel()
    assert axes[0].get_title(loc="left")


def test_roc_is_not_drawn_below_ten_over_n_and_its_bands_say_so(drawn):
    DRAWINGS["roc"]()
    figure = drawn[0]
    lines = [line for line in figure.axes[0].lines if line.get_label() in CURVES]
    assert len(lines) == 2
    assert all(line.get_xdata().min() == 10 / 400 for line in lines)
    assert "at each point separately" in figure._supxlabel.get_text()
    assert "10/n" in figure._supxlabel.get_text()
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == ("log", "log")


def test_histogram_shares_sum_to_one(drawn):
    DRAWINGS["losses"]()
    outlines = [patch for patch in drawn[0].axes[0].patches if not patch.get_fill()]
    assert len(outlines) == 3
    for outline in outlines:
        assert outline.get_data().values.sum() == pytest.approx(1.0)


def test_player_panels_without_data_are_left_out(drawn):
    DRAWINGS["players"]()
    assert [axes.get_ylabel() for axes in drawn[0].axes] == ["loss", "payoff", "gradient bound"]
    smooth = next(line for line in drawn[0].axes[1].lines if line.get_label() == "auditor")
    recorded = [v for v in HISTORY["payoff"] if v is not None]
    assert len(smooth.get_xdata()) == len(recorded)
    assert smooth.get_ydata() == pytest.approx(recorded)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.loss_histograms({}), "got no model; pass"),
        (lambda: figures.loss_histograms({"before": {"forget": [1.0, math.nan]}}), "losses hold nan in row 1"),
        (lambda: figures.roc({}), "got no curve; pass"),
        (lambda: figures.player_curves({"used": (1.0,), "lr": (0.1,)}), r"at least one of .* got \['lr', 'used'\]"),
        (lambda: figures.budget_gap({}), "got no point; pass"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_without_matplotlib_the_error_names_the_install(monkeypatch):
    really_import = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return really_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(BackendError, match=r"pip install 'amu-fast\[report\]'"):
        figures.roc(CURVES)
