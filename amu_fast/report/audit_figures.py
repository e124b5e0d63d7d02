"""The pictures of an audit report: small panels from binned data, each readable at the width of a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.report import canvas, figures
from amu_fast.report.canvas import BLUE, CYCLE, GREEN, GREY, INK, MARKERS, ORANGE

if TYPE_CHECKING:
    from amu_fast.report.binned import Histogram, LossHistograms, RocRecord
    from amu_fast.report.comparison import Comparison, MethodRuns
    from amu_fast.report.document import ExampleSummary

PANEL = (3.7, 2.7)
"""Inches; drawn about as wide on a phone and in a column of three, so that the letters keep their size."""
MODEL_STYLE = {
    "unlearned": (INK, "-"),
    "retrained": (BLUE, "--"),
    "original": (ORANGE, "-."),
    "another retrain": (GREEN, (0, (5, 1))),
}
_DODGE = 0.21
_SMALL = 8


@dataclass(frozen=True)
class Picture:
    """A figure with the words for those who do not see it.

    Attributes:
        title: above it.
        png: its bytes.
        alt: what it shows, with its main numbers.
        caption: below it, what to look for; may be empty.
    """

    title: str
    png: bytes
    alt: str
    caption: str = ""


def differences(comparison: Comparison) -> Picture:
    """Per metric the signed difference of each row to the retrained model, its interval, and the margin as a band."""
    rows, metrics = (*comparison.methods, comparison.floor), comparison.metrics
    figure, axes = canvas.new_figure(5.2, 1.0 + 0.21 * len(metrics) * (1 + len(rows)))
    canvas.dress(axes, "difference to retrained, points")
    said = []
    for place, metric in enumerate(metrics):
        margin = comparison.margins.get(metric)
        if margin is not None:
            band = [place - 0.42, place + 0.42]
            axes.fill_betweenx(band, -margin, margin, color=BLUE, alpha=0.1, lw=0, label="_" if place else "margin")
        for index, runs in enumerate(rows):
            value = 100 * sum(runs.differences[metric]) / runs.units
            height = place + _DODGE * (index - (len(rows) - 1) / 2)
            _bar(axes, value, height, runs, metric, index, label="" if place else runs.name)
            said.append(f"{_title(comparison, metric)} of {runs.name} {value:+.1f}")
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_yticks(range(len(metrics)), [_wrapped(_title(comparison, m)) for m in metrics], fontsize=9)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(False, axis="y")
    axes.invert_yaxis()
    _legend(figure)
    return Picture(
        "",
        canvas.png(figure),
        f"Differences to the retrained model in points: {'; '.join(said)}.",
        "A model that forgot lies at zero. Shaded: the margin fixed beforehand. Bars: the intervals of the table.",
    )


def _bar(axes: Any, value: float, height: float, runs: MethodRuns, metric: str, index: int, label: str) -> None:
    interval = runs.interval(metric)
    colour, _ = MODEL_STYLE.get(runs.name, (CYCLE[index % len(CYCLE)], "-"))
    if interval is not None:
        ends = interval.scaled(100)
        axes.plot([ends.low, ends.high], [height, height], color=colour, lw=1.6, solid_capstyle="butt")
    marker = MARKERS[index % len(MARKERS)]
    axes.plot([value], [height], color=colour, marker=marker, ms=5.5, ls="none", label=label or "_")


def loss_panels(losses: LossHistograms) -> tuple[Picture, ...]:
    """One panel per model, all with the same axes."""
    everything = [h for parts in losses.models.values() for h in parts.values()]
    top = 1.08 * max(max(h.shares) for h in everything)
    used = np.sum([h.counts for h in everything], axis=0).nonzero()[0]
    edges = everything[0].edges
    span = (edges[used[0]], edges[used[-1] + 1])
    return tuple(_loss_panel(model, parts, top, span) for model, parts in losses.models.items())


def _loss_panel(model: str, parts: Mapping[str, Histogram], top: float, span: tuple[float, float]) -> Picture:
    figure, axes = canvas.new_figure(*PANEL)
    canvas.dress(axes, "loss in nats (log scale)", "share of rows")
    axes.set_xscale("log")
    for part, histogram in parts.items():
        colour, dash = figures.PART_STYLE.get(part, (INK, "-"))
        label = f"{part} ({histogram.rows:,})"
        axes.stairs(histogram.shares, histogram.edges, color=colour, linestyle=dash, linewidth=1.5, label=label)
        if part == "forget":
            axes.stairs(histogram.shares, histogram.edges, color=colour, alpha=0.15, fill=True)
    axes.set_xticks([1e-6, 1e-4, 1e-2, 1.0, 1e2])
    axes.minorticks_off()
    axes.set(xlim=span, ylim=(0, top))
    _legend(figure)
    medians = ", ".join(f"{part} {_median(h):.2g}" for part, h in parts.items())
    return Picture(model, canvas.png(figure), f"Loss histogram of the {model} model. Median loss about: {medians}.")


def roc_panels(records: Sequence[RocRecord]) -> tuple[Picture, ...]:
    """One panel per attack, its models as curves; the first model of the first attack is drawn on top."""
    pictures = []
    for attack in dict.fromkeys(record.attack for record in records):
        mine = [record for record in records if record.attack == attack]
        curves = {record.model: record.curve() for record in mine}
        png = figures.roc(curves, "", size=(PANEL[0], 3.5), styles=MODEL_STYLE, note=False)
        rates = "; ".join(f"{r.model} {_rate_near(r, 0.05)}" for r in mine)
        game = "in the game" if any(r.in_game for r in mine) else "not in the game"
        rows = f"{mine[0].members:,} forget rows against {mine[0].nonmembers:,} test rows"
        pictures.append(Picture(attack, png, f"ROC curves of the attack {attack}: {rates}.", f"{game}; {rows}"))
    return tuple(pictures)


def player_panels(history: Mapping[str, Sequence[float | None]]) -> tuple[Picture, ...]:
    """What each player got over the run, a panel per quantity that was recorded."""
    if "used" not in history:
        return ()
    used = np.asarray(history["used"], float)
    pictures = []
    for label, lines in figures.PLAYER_PANELS:
        present = [line for line in lines if figures.recorded(history, line[0])]
        if not present:
            continue
        figure, axes = canvas.new_figure(PANEL[0], 2.3)
        canvas.dress(axes, "gradient samples used")
        for name, words, colour, dash in present:
            figures.smoothed(axes, used, history[name], words, colour, dash)
        if label in figures.LOG_PANELS:
            figures.log_scale(axes, [v for name, *_ in present for v in history[name]])
        if len(present) > 1:
            _legend(figure)
        said = "; ".join(f"{words}: {_first_last(history[name])}" for name, words, *_ in present)
        caption = present[0][1] if len(present) == 1 else ""
        pictures.append(Picture(label, canvas.png(figure), f"{label} over the run. {said}.", caption))
    return tuple(pictures)


def changes(examples: ExampleSummary) -> Picture:
    """How far the forget rows' scores moved, unlearned and retrained."""
    figure, axes = canvas.new_figure(*PANEL)
    canvas.dress(axes, f"change of {examples.score}", "share of forget rows")
    shown = {"unlearned": examples.unlearned, "retrained": examples.retrained}
    said = []
    for name, histogram in shown.items():
        if histogram is not None:
            colour, dash = MODEL_STYLE[name]
            axes.stairs(histogram.shares, histogram.edges, color=colour, linestyle=dash, linewidth=1.5, label=name)
            said.append(f"{name} median about {_median(histogram):+.1f}")
    axes.axvline(0, color=GREY, linewidth=0.9)
    axes.set_xlim(*_occupied([h for h in shown.values() if h is not None]))
    _legend(figure)
    return Picture(
        "",
        canvas.png(figure),
        f"Change of {examples.score} of the forget rows: {'; '.join(said)}.",
        "Left of zero: the model recognises the row less than the original did. The two outlines should agree.",
    )


def _occupied(histograms: Sequence[Histogram]) -> tuple[float, float]:
    """From the first to the last bin in use, and a bin of air on either side."""
    used = np.sum([h.counts for h in histograms], axis=0).nonzero()[0]
    edges = histograms[0].edges
    return edges[max(0, used[0] - 1)], edges[min(len(edges) - 1, used[-1] + 2)]


def _legend(figure: Any) -> None:
    """Above the axes, where it hides nothing."""
    figure.legend(
        fontsize=_SMALL, frameon=False, loc="outside upper left", ncols=4, columnspacing=1.2, handlelength=1.6
    )


def _wrapped(title: str) -> str:
    return title.replace(" (", "\n(")


def _title(comparison: Comparison, metric: str) -> str:
    return comparison.labels.get(metric, metric.replace("_", " ").replace("auc", "AUC"))


def _median(histogram: Histogram) -> float:
    """Middle of the bin in which half of the rows lie."""
    place = int(np.searchsorted(np.cumsum(histogram.counts), histogram.rows / 2))
    low, high = histogram.edges[place : place + 2]
    return float(np.sqrt(low * high)) if low > 0 else (low + high) / 2


def _rate_near(record: RocRecord, fpr: float) -> str:
    place = int(np.argmin(np.abs(np.asarray(record.fpr) - fpr)))
    return f"TPR {100 * record.tpr[place]:.0f} % at FPR {100 * record.fpr[place]:.0f} %"


def _first_last(column: Sequence[float | None]) -> str:
    values = [v for v in column if v is not None and np.isfinite(v)]
    return f"first {values[0]:.3g}, last {values[-1]:.3g}"
