"""Attained margin over budget: every method at every budget, and the front that none of them passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amu_fast.errors import DataError
from amu_fast.report import canvas
from amu_fast.report.canvas import CYCLE, GREY, INK, MARKERS


@dataclass(frozen=True)
class MarginPoint:
    """One method at one budget.

    Attributes:
        name: As it is printed.
        used: Share of retraining's gradient samples, in (0, 1].
        margin: Attained margin, in points.
        emphasised: Drawn larger and joined by a line with the others of its name.
    """

    name: str
    used: float
    margin: float
    emphasised: bool = False


def front(points: Sequence[MarginPoint]) -> tuple[MarginPoint, ...]:
    """Points that no other matches in both budget and margin while beating it in one, by growing budget.

    >>> a, b, c = MarginPoint("a", 0.1, 5.0), MarginPoint("b", 0.2, 6.0), MarginPoint("c", 0.3, 1.0)
    >>> [point.name for point in front([c, b, a])]
    ['a', 'c']
    """
    kept: list[MarginPoint] = []
    for point in sorted(points, key=lambda p: (p.used, p.margin)):
        if not kept or point.margin < kept[-1].margin:
            kept.append(point)
    return tuple(kept)


def pareto_front(points: Sequence[MarginPoint], floor: float, title: str) -> bytes:
    """PNG: both axes logarithmic, the front as a step line, another retrain's margin as a dashed line.

    Args:
        points: Every method at every budget.
        floor: Attained margin of another retrain, in points.
        title: Of the figure.

    Raises:
        DataError: No point.
        BackendError: matplotlib is not installed.
    """
    if not points:
        raise DataError("a Pareto plot got no point; judge at least one method")
    figure, axes = canvas.new_figure(7.6, 4.6)
    canvas.dress(axes, "gradient samples used, % of retraining", "attained margin, points", title)
    names = list(dict.fromkeys(point.name for point in points))
    for index, name in enumerate(names):
        mine = sorted((p for p in points if p.name == name), key=lambda p: p.used)
        strong = mine[0].emphasised
        axes.plot(
            [100.0 * p.used for p in mine],
            [p.margin for p in mine],
            color=INK if strong else CYCLE[index % (len(CYCLE) - 1)],
            marker=MARKERS[(index // (len(CYCLE) - 1)) % len(MARKERS)],
            linestyle="-" if strong else "none",
            linewidth=1.6,
            markersize=7 if strong else 5,
            label=name,
        )
    best = front(points)
    x = [*(100.0 * p.used for p in best), 100.0 * max(p.used for p in points) * 1.15]
    axes.step(x, [*(p.margin for p in best), best[-1].margin], where="post", color=GREY, linewidth=1.0, zorder=0)
    axes.axhline(floor, color=GREY, linestyle="--", linewidth=1.0, label="another retrain")
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({round(100.0 * p.used, 1) for p in points if p.emphasised}) or [1, 5, 10, 50]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    figure.legend(fontsize=7.5, frameon=False, loc="outside right upper")
    canvas.caption(figure, "The grey line joins what no other method beats in both; lower and further left is better.")
    return canvas.png(figure)
