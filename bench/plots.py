"""Figures from the records alone: one per case and device, a panel per size, time per unit beside its limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amu_fast.bench import records
from amu_fast.bench.records import Record
from amu_fast.report import canvas
from amu_fast.report.writing import write_atomic

FAMILIES = ("p1", "p2", "p3", "p4", "p5")
COLUMNS = 3
PANEL_WIDTH, BAR_HEIGHT, HEAD = 5.2, 0.2, 0.75
PREFIX = {0: "s", -1: "ms", -2: "µs", -3: "ns"}


def draw_all(folder: Path) -> list[Path]:
    """Draw what the records in a folder allow; returns the files."""
    drawn = []
    for family in FAMILIES:
        lines = records.latest(records.load(folder / f"{family}.csv"))
        for device in sorted({line.device for line in lines}):
            image = draw([line for line in lines if line.device == device])
            drawn.append(write_atomic(folder / f"{family}-{device}.png", image))
    return drawn


def draw(lines: Sequence[Record]) -> bytes:
    """One figure of all sizes of a case.

    Args:
        lines: the latest records of one case on one device.
    """
    names = list(dict.fromkeys(line.case for line in lines))
    panels = {name: [line for line in lines if line.case == name] for name in names}
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    most = max(len(panel) for panel in panels.values())
    figure, grid = canvas.new_figure(
        PANEL_WIDTH * columns, 0.6 + rows * (HEAD + BAR_HEIGHT * most), nrows=rows, ncols=columns, squeeze=False
    )
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes, (name, panel) in zip(grid.flat, panels.items(), strict=False):
        _panel(axes, name, panel)
    figure.suptitle(f"{lines[0].family} on {lines[0].device}", fontsize=11, x=0.01, ha="left", color=canvas.INK)
    canvas.caption(figure, "Bars: median, p20 to p80. Dotted: the limit. After each bar: time over ours, error.")
    return canvas.png(figure)


def _panel(axes: Any, name: str, panel: Sequence[Record]) -> None:
    unit = panel[0].unit
    canvas.dress(axes, f"time per {unit} (s)", "", name)
    axes.set_xscale("log")
    timed = [line for line in panel if math.isfinite(line.per_unit)]
    limit = panel[0].limit
    low = min([line.per_unit for line in timed] + [limit]) / 2
    high = max([line.per_unit for line in timed] + [limit]) * 2
    # Room for what is written after the longest bar.
    axes.set_xlim(low, high * (high / low) ** 0.7)
    axes.axvline(limit, color=canvas.GREY, linestyle=":", linewidth=1)
    for place, line in enumerate(panel):
        colour = canvas.BLUE if line.ours else canvas.ORANGE
        if math.isfinite(line.per_unit):
            spread = [[(line.seconds - line.p20) / line.units], [(line.p80 - line.seconds) / line.units]]
            axes.barh(place, line.per_unit - low, left=low, color=colour, height=0.7)
            axes.errorbar(line.per_unit, place, xerr=spread, color=canvas.INK, linewidth=0.8, capsize=1.5)
        text = f" {line.ratio:.3g}×, {error_text(line)}" if math.isfinite(line.ratio) else f" {outcome_text(line)}"
        axes.text(line.per_unit if math.isfinite(line.per_unit) else low, place, text, fontsize=6.5, va="center")
    axes.set_yticks(range(len(panel)), [line.contender for line in panel], fontsize=7)
    axes.invert_yaxis()


def error_text(line: Record) -> str:
    """The error, or why there is none."""
    return f"error {line.error:.1e}" if math.isfinite(line.error) else line.computes


def outcome_text(line: Record) -> str:
    """Why a contender has no time."""
    return f"{line.outcome} (error {line.error:.1e})" if math.isfinite(line.error) else line.outcome


def seconds_text(value: float) -> str:
    """Three digits with a unit: 9.41 µs."""
    if not math.isfinite(value) or value <= 0:
        return "–"
    power = max(-3, min(0, math.floor(math.log10(value) / 3)))
    return f"{value * 1000.0**-power:.3g} {PREFIX[power]}"
