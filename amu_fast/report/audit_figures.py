"""The pictures of an audit report: small panels from binned data, each readable at the width of a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.report import canvas, figures
from amu_fast.report.canvas import BLUE, CYCLE, DASHES, GREY, INK, MARKERS, VERMILION

if TYPE_CHECKING:
    from amu_fast.report.binned import Histogram, LossHistograms, RocRecord
    from amu_fast.report.comparison import Comparison
    from amu_fast.report.document import ExampleSummary

PANEL = (4.4, 2.9)
_DODGE = 0.22
_SMALL = 8


@dataclass(frozen=True)
class Picture:
    """A figure with the words for those who do not see it.

    Attributes:
        png: its bytes.
        alt: what it shows, with its main numbers.
        caption: what to look for.
    """

    png: bytes
    alt: str
    caption: str


def differences(comparison: Comparison) -> Picture:
    """Per metric the signed difference of each row to the retrained model, its interval, and the margin as a band."""
    rows, metrics = comparison.rows, comparison.metrics
    figure, axes = canvas.new_figure(6.4, 0.9 + 0.3 * len(metrics) * max(2, len(rows)))
    canvas.dress(axes, "difference to retrained, points")
    said = []
    for place, metric in enumerate(metrics):
        margin = comparison.margins.get(metric)
        if margin is not None:
            label = "margin" if place == 0 else None
            axes.fill_betweenx([place - 0.42, place + 0.42], -margin, margin, color=BLUE, alpha=0.1, lw=0, label=label)
        for index, runs in enumerate(reversed(rows)):
            value = 100 * sum(runs.differences[metric]) / runs.units
            interval = runs.interval(metric)
            error = None if interval is None else _error(value, interval.scaled(100))
            height = place + _DODGE * (index - (len(rows) - 1) / 2)
            style = {"color": CYCLE[index % len(CYCLE)], "marker": MARKERS[index % len(MARKERS)]}
            name = runs.name if place == 0 else None
            axes.errorbar([value], [height], xerr=error, capsize=2.5, lw=1.5, ms=5, ls="none", label=name, **style)
            said.append(f"{_title(comparison, metric)} of {runs.name} {value:+.1f}")
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_yticks(range(len(metrics)), [_title(comparison, m) for m in metrics], fontsize=9)
    axes.invert_yaxis()
    figure.legend(fontsize=_SMALL, frameon=False, loc="outside upper left", ncols=2)
    return Picture(
        canvas.png(figure),
        f"Differences to the retrained model in points: {'; '.join(said)}.",
        "A model that forgot lies at zero. Shaded: the margin fixed before the audit. Bars: the intervals of the table.",
    )


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
    canvas.dress(axes, "loss in nats (log scale)", "share of rows", model)
    axes.set_xscale("log")
    for part, histogram in parts.items():
        colour, dash = figures.PART_STYLE.get(part, (INK, "-"))
        label = f"{part} ({histogram.rows:,})"
        axes.stairs(histogram.shares, histogram.edges, color=colour, linestyle=dash, linewidth=1.5, label=label)
        if part == "forget":
            axes.stairs(histogram.shares, histogram.edges, color=colour, alpha=0.15, fill=True)
    axes.set(xlim=span, ylim=(0, top))
    axes.legend(fontsize=_SMALL, frameon=False, loc="upper left")
    medians = ", ".join(f"{part} {_median(h):.2g}" for part, h in parts.items())
    return Picture(canvas.png(figure), f"Loss histogram of the {model} model. Median loss about: {medians}.", model)


def roc_panels(records: Sequence[RocRecord]) -> tuple[Picture, ...]:
    """One panel per attack, its models as curves; the first model of the first attack is drawn on top."""
    pictures = []
    for attack in dict.fromkeys(record.attack for record in records):
        mine = [record for record in records if record.attack == attack]
        png = figures.roc({r.model: r.curve() for r in mine}, attack, size=(4.4, 4.1))
        rates = "; ".join(f"{r.model} {_rate_near(r, 0.05)}" for r in mine)
        game = "in the game" if any(r.in_game for r in mine) else "not in the game"
        pictures.append(Picture(png, f"ROC curves of the attack {attack}: {rates}.", f"{attack} ({game})"))
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
        figure, axes = canvas.new_figure(PANEL[0], 2.4)
        canvas.dress(axes, "gradient samples used", label)
        for name, words, colour, dash in present:
            figures.smoothed(axes, used, history[name], words, colour, dash)
        if label in figures.LOG_PANELS:
            figures.log_scale(axes, [v for name, *_ in present for v in history[name]])
        axes.legend(fontsize=_SMALL, frameon=False, loc="best")
        said = "; ".join(f"{words}: {_first_last(history[name])}" for name, words, *_ in present)
        pictures.append(Picture(canvas.png(figure), f"{label} over the run. {said}.", label))
    return tuple(pictures)


def changes(examples: ExampleSummary) -> Picture:
    """How far the forget rows' scores moved, unlearned and retrained."""
    figure, axes = canvas.new_figure(*PANEL)
    canvas.dress(axes, f"change of {examples.score}, model − original", "share of forget rows")
    shown = (("unlearned", examples.unlearned, VERMILION, "-"), ("retrained", examples.retrained, BLUE, "--"))
    said = []
    for name, histogram, colour, dash in shown:
        if histogram is not None:
            axes.stairs(histogram.shares, histogram.edges, color=colour, linestyle=dash, linewidth=1.5, label=name)
            said.append(f"{name} median about {_median(histogram):+.1f}")
    axes.axvline(0, color=GREY, linewidth=0.9)
    axes.set_xlim(*_occupied([h for _, h, *_ in shown if h is not None]))
    axes.legend(fontsize=_SMALL, frameon=False, loc="upper left")
    return Picture(
        canvas.png(figure),
        f"Change of {examples.score} of the forget rows: {'; '.join(said)}.",
        "Left of zero: the model recognises the row less than the original did. The two outlines should agree.",
    )


def _occupied(histograms: Sequence[Histogram]) -> tuple[float, float]:
    """From the first to the last bin in use, and a bin of air on either side."""
    used = np.sum([h.counts for h in histograms], axis=0).nonzero()[0]
    edges = histograms[0].edges
    return edges[max(0, used[0] - 1)], edges[min(len(edges) - 1, used[-1] + 2)]


def _error(value: float, interval: Any) -> Any:
    return np.maximum(0.0, [[value - interval.low], [interval.high - value]])


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
