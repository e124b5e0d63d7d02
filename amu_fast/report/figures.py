"""The figures of a report, each a function from numbers to PNG bytes; `write_atomic` puts them into files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.errors import DataError
from amu_fast.report import canvas
from amu_fast.report.canvas import BLUE, CYCLE, DASHES, GREEN, GREY, INK, MARKERS, ORANGE, PURPLE, SKY, VERMILION

if TYPE_CHECKING:
    from amu_fast.audit.metrics import Array
    from amu_fast.audit.roc import RocCurve

LOSS_FLOOR = 1e-6
BINS = 40
PART_STYLE = {"retain": (GREY, ":"), "forget": (VERMILION, "-"), "test": (BLUE, "--")}

LOG_PANELS = ("gradient bound", "residual")
PLAYER_PANELS: tuple[tuple[str, tuple[tuple[str, str, str, Any], ...]], ...] = (
    ("loss", (("retain_loss", "retain (unlearner)", BLUE, "-"), ("forget_loss", "forget", VERMILION, "--"))),
    ("payoff", (("payoff", "auditor", VERMILION, "-"), ("permuted_payoff", "null: labels permuted", GREY, "--"))),
    ("forget − validation loss", (("loss_gap", "gap", PURPLE, "-"),)),
    ("accuracy", (("auditor_accuracy", "auditor, held-out rows", GREEN, "-"),)),
    ("gradient bound", (("gradient_bound", "bound on the gradient's error", ORANGE, "-"),)),
    (
        "residual",
        (
            ("adjoint_residual", "auditor's adjoint system", SKY, "-"),
            ("ihvp_residual", "influence system, relative", INK, "--"),
        ),
    ),
)
_PLAYER_NAMES = tuple(name for _, lines in PLAYER_PANELS for name, *_ in lines)


@dataclass(frozen=True)
class GapPoint:
    """One method at one budget.

    Attributes:
        budget: share of retraining's gradient samples, in (0, 1].
        gap: average gap to retrain, in points.
        low: lower end of its interval; equal to the gap where there is none.
        high: upper end.
    """

    budget: float
    gap: float
    low: float
    high: float


def loss_histograms(models: Mapping[str, Mapping[str, Any]], title: str = "Losses") -> bytes:
    """Histograms of the loss on a log axis, one panel per model, one outline per part.

    Args:
        models: panel title ("before", "after", "retrained") to part ("forget", "test", "retain") to losses (n,).
        title: of the figure.
    """
    if not models:
        raise DataError("loss_histograms got no model; pass {'before': {'forget': losses, ...}, ...}")
    panels = {name: {p: _log_losses(v) for p, v in parts.items()} for name, parts in models.items()}
    values = np.concatenate([v for parts in panels.values() for v in parts.values()])
    edges = np.geomspace(values.min() * 0.999, max(values.max(), values.min() * 10) * 1.001, BINS + 1)
    figure, grid = canvas.new_figure(3.4 * len(panels), 3.1, ncols=len(panels), sharex=True, sharey=True, squeeze=False)
    for axes, (name, parts) in zip(grid[0], panels.items(), strict=True):
        canvas.dress(axes, "loss (log scale)", "share of rows" if axes is grid[0][0] else "", name)
        axes.set_xscale("log")
        for part, losses in parts.items():
            colour, dash = PART_STYLE.get(part, (INK, "-"))
            shares = np.histogram(losses, edges)[0] / len(losses)
            axes.stairs(
                shares, edges, color=colour, linestyle=dash, linewidth=1.6, label=f"{part} ({len(losses)} rows)"
            )
            if part == "forget":
                axes.stairs(shares, edges, color=colour, alpha=0.15, fill=True)
    handles, labels = grid[0][-1].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, frameon=False, loc="outside upper right", ncols=len(labels))
    figure.suptitle(title, fontsize=11, x=0.01, ha="left", color=INK)
    canvas.caption(figure, f"Compare after with retrained. Losses below {LOSS_FLOOR:g} are drawn at {LOSS_FLOOR:g}.")
    return canvas.png(figure)


def roc(
    curves: Mapping[str, RocCurve],
    title: str = "ROC of the attack",
    *,
    size: tuple[float, float] = (5.2, 4.8),
    styles: Mapping[str, tuple[str, Any]] | None = None,
    note: bool = True,
) -> bytes:
    """ROC curves in log-log axes with their pointwise bands, none drawn below 10/n (S5).

    Args:
        curves: label to curve, as from `amu_fast.audit.roc.roc_curve`; the first is drawn on top.
        title: names the attack.
        size: width and height in inches.
        styles: label to colour and dash; the palette in its order where absent.
        note: write below how to read the bands.
    """
    if not curves:
        raise DataError("roc got no curve; pass {'unlearned': roc_curve(members, nonmembers), ...}")
    figure, axes = canvas.new_figure(*size)
    canvas.dress(axes, "false-positive rate", "true-positive rate", title)
    floor = min(float(curve.fpr[0]) for curve in curves.values())
    bottom = floor / 3.0
    axes.plot([floor, 1.0], [floor, 1.0], color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), label="chance")
    for index, (label, curve) in enumerate(curves.items()):
        colour, dash = (styles or {}).get(label, (CYCLE[index % len(CYCLE)], DASHES[index % len(DASHES)]))
        order = 20 - index
        low, high = (np.maximum(v, bottom) for v in (curve.low, curve.high))
        drawn = np.where(curve.tpr > 0, curve.tpr, np.nan)
        axes.fill_between(curve.fpr, low, high, color=colour, alpha=0.13, linewidth=0, zorder=order - 10)
        axes.plot(curve.fpr, drawn, color=colour, linestyle=dash, linewidth=1.7, label=label, zorder=order)
    for rate in (r for r in (0.001, 0.01, 0.05) if r >= floor):
        axes.axvline(rate, color="#BBBBBB", linewidth=0.8, zorder=0)
        axes.text(rate * 1.04, bottom * 1.1, f"{100 * rate:g} %", fontsize=7, color=GREY)
    axes.set(xscale="log", yscale="log", xlim=(floor, 1.0), ylim=(bottom, 1.0))
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    if note:
        level = 100 * next(iter(curves.values())).level
        canvas.caption(figure, f"Bands: {level:g} % at each point separately, rows resampled. No curve below FPR 10/n.")
    return canvas.png(figure)


def player_curves(history: Mapping[str, Sequence[float | None]], title: str = "Both players") -> bytes:
    """What each player got over the run: retain loss, payoff against its null, the auditor's accuracy, bound.

    Args:
        history: the report's columns; "used" (gradient samples) is the x axis, panels without data are left out.
        title: of the figure.
    """
    panels = [(label, lines) for label, lines in PLAYER_PANELS if any(recorded(history, name) for name, *_ in lines)]
    if not panels or "used" not in history:
        raise DataError(f"history needs 'used' and at least one of {_PLAYER_NAMES}, got {sorted(history)}")
    figure, grid = canvas.new_figure(6.4, 1.0 + 1.5 * len(panels), nrows=len(panels), sharex=True, squeeze=False)
    used = np.asarray(history["used"], float)
    for axes, (label, lines) in zip(grid[:, 0], panels, strict=True):
        canvas.dress(axes, "", label, title if axes is grid[0, 0] else "")
        for name, text, colour, dash in lines:
            if recorded(history, name):
                smoothed(axes, used, history[name], text, colour, dash)
        if label in LOG_PANELS:
            log_scale(axes, [v for name, *_ in lines for v in history.get(name, ())])
        axes.legend(fontsize=7, frameon=False, loc="best")
    grid[-1, 0].set_xlabel("gradient samples used", fontsize=9, color=INK)
    canvas.caption(figure, "Pale: each step. Strong: running mean. A payoff at its null is what chance earns.")
    return canvas.png(figure)


def budget_gap(
    methods: Mapping[str, Sequence[GapPoint]], floor: tuple[float, float] | None = None, title: str = "Gap over budget"
) -> bytes:
    """Average gap to retrain over the budget, one line per method, the floor as a band.

    Args:
        methods: name to its points.
        floor: the interval of another retrain's gap, in points.
        title: of the figure.
    """
    if not any(methods.values()):
        raise DataError("budget_gap got no point; pass {'fine-tune': [GapPoint(0.05, 3.9, 3.1, 4.7)], ...}")
    figure, axes = canvas.new_figure(7.6, 3.9)
    canvas.dress(axes, "budget (% of retraining's gradient samples)", "average gap to retrain (points)", title)
    if floor is not None:
        axes.axhspan(*floor, color=GREY, alpha=0.18, linewidth=0, label="floor: another retrain")
    spread = np.linspace(-0.03, 0.03, len(methods)) if len(methods) > 1 else np.zeros(1)
    for index, (name, points) in enumerate(methods.items()):
        ordered = sorted(points, key=lambda p: p.budget)
        # shifted a little, so that intervals at one budget do not cover each other
        x = np.array([100 * p.budget * np.exp(spread[index]) for p in ordered])
        gap = np.array([p.gap for p in ordered])
        error = np.maximum(0.0, [gap - [p.low for p in ordered], [p.high for p in ordered] - gap])
        style = {"marker": MARKERS[index % len(MARKERS)], "linestyle": DASHES[index % len(DASHES)]}
        axes.errorbar(x, gap, error, color=CYCLE[index % len(CYCLE)], capsize=2.5, lw=1.5, ms=5, label=name, **style)
    ticks = sorted({100 * p.budget for points in methods.values() for p in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    # Beside the axes: with two budgets there is no free place inside.
    figure.legend(fontsize=8, frameon=False, loc="outside right upper")
    canvas.caption(figure, "The average gap is biased upward: the floor is what a second retraining shows.")
    return canvas.png(figure)


def recorded(history: Mapping[str, Sequence[float | None]], name: str) -> bool:
    """Whether any step recorded a finite value of that name."""
    return any(v is not None and np.isfinite(v) for v in history.get(name, ()))


def log_scale(axes: Any, column: Sequence[float | None]) -> None:
    """A log axis around the positive values; linear where there are none (every problem skipped)."""
    positive = [v for v in column if v is not None and np.isfinite(v) and v > 0]
    if positive:
        axes.set_yscale("log")
        axes.set_ylim(min(positive) / 2.0, max(positive) * 2.0)


def smoothed(axes: Any, used: Array, column: Sequence[float | None], label: str, colour: str, dash: Any) -> None:
    """Each recorded step pale, and a running mean over a twentieth of them strong."""
    values = np.array([np.nan if v is None else v for v in column], float)
    keep = np.isfinite(values)
    x, y = used[keep], values[keep]
    width = max(1, len(y) // 20)
    sums = np.cumsum(np.insert(y, 0, 0.0))
    start = np.maximum(0, np.arange(1, len(y) + 1) - width)
    mean = (sums[1:] - sums[start]) / (np.arange(1, len(y) + 1) - start)
    axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.3)
    axes.plot(x, mean, color=colour, linewidth=1.6, linestyle=dash, label=label)


def _log_losses(losses: Any) -> Array:
    from amu_fast.audit.metrics import as_scores

    return np.asarray(np.maximum(as_scores(losses, "losses"), LOSS_FLOOR))
