"""How every figure looks: one palette that colour-blind readers can tell apart, quiet axes, PNG bytes out."""

from __future__ import annotations

import io
from typing import Any

from amu_fast.errors import BackendError

# Okabe and Ito's palette, 2008, without its yellow, which is too light for lines
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#222222",
)
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK)
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6E6E6E"
DPI = 160


def new_figure(width: float, height: float, **layout: Any) -> tuple[Any, Any]:
    """A figure and its axes, as from `matplotlib.figure.Figure.subplots`, without any global state.

    Args:
        width: inches.
        height: inches.
        **layout: rows, columns and sharing, passed on.

    Raises:
        BackendError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError("figures need matplotlib; pip install 'amu-fast[report]'") from error
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(**layout)


def dress(axes: Any, x: str = "", y: str = "", title: str = "") -> None:
    """Label one pair of axes and remove what carries no information."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelsize=8)
    axes.grid(True, color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.set_title(title, fontsize=10, color=INK, loc="left")


def caption(figure: Any, text: str) -> None:
    """A line under the figure that says how to read it."""
    figure.supxlabel(text, fontsize=7.5, color=GREY, x=0.01, ha="left")


def png(figure: Any) -> bytes:
    """The figure as PNG; equal inputs give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
