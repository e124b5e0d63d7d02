"""The headline table as text: for a terminal (rich) and for files (markdown)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amu_fast.audit.intervals import MIN_UNITS

if TYPE_CHECKING:
    from amu_fast.audit.intervals import Interval
    from amu_fast.report.comparison import Comparison, MethodRuns

EQUIVALENT = "≈"
NOTHING = "–"


def headers(comparison: Comparison) -> tuple[str, ...]:
    """Column titles; the paired column needs two units."""
    metrics = tuple(comparison.labels.get(m, m.replace("_", " ").replace("auc", "AUC")) for m in comparison.metrics)
    paired = ("gap − floor",) if comparison.units > 1 else ()
    return ("method", *metrics, "attained margin", "average gap", *paired, "collapses", "seconds")


def cells(comparison: Comparison, runs: MethodRuns) -> tuple[str, ...]:
    """One row, in points where not said otherwise."""
    margin = runs.attained_margin(comparison.metrics)
    paired: tuple[str, ...] = ()
    if comparison.units > 1:
        is_floor = runs is comparison.floor
        paired = (NOTHING if is_floor else signed(comparison.gap_difference(runs, comparison.floor)),)
    return (
        runs.name,
        *(_difference(comparison, runs, metric) for metric in comparison.metrics),
        NOTHING if margin is None else f"{margin:.1f}",
        f"{comparison.mean_gap(runs):.1f}",
        *paired,
        f"{runs.collapses} of {runs.units}",
        f"{sum(runs.seconds) / runs.units:.1f}",
    )


def notes(comparison: Comparison) -> tuple[str, ...]:
    """What the figures mean and what they do not, by the rules of docs/statistics.md."""
    n = comparison.units
    if n == 1:
        scope = "1 unit: 95 % intervals over rows, for this model only, not for the algorithm (S1); no seeds varied."
    else:
        few = "" if n >= MIN_UNITS else f" {MIN_UNITS} units are the floor (S2)."
        scope = f"{n} units: 95 % t-intervals over units, for the algorithm (S2).{few}"
    marked = f" {EQUIVALENT}: equivalent within the margin fixed beforehand." if comparison.margins else ""
    return (
        f"Signed differences to retrain in points (accuracies in %, AUC x 100). {scope}{marked}",
        "Attained margin: smallest margin at which all metrics are equivalent to retrain, two one-sided tests at 5 % "
        "each (S13); a point value.",
        f"Average gap: mean absolute difference; the floor, another retrain, has "
        f"{comparison.mean_gap(comparison.floor):.1f}: read it beside that (S13).",
        "Collapses: units more than 10 points of test accuracy under retrain; they count in every figure (S2).",
    )


def markdown(comparison: Comparison) -> str:
    """The table with its notes for a file."""
    titles = headers(comparison)
    lines = [f"**{comparison.title}**", ""] if comparison.title else []
    lines += [_line(titles), _line(("---", *("---:" for _ in titles[1:])))]
    lines += [_line(cells(comparison, runs)) for runs in comparison.rows]
    return "\n".join([*lines, "", *(f"{note}  " for note in notes(comparison))]) + "\n"


def rich_table(comparison: Comparison) -> Any:
    """The table with its notes as a `rich.table.Table`; print it with a `rich.console.Console`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=comparison.title or None,
        title_justify="left",
        caption="\n".join(notes(comparison)),
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    for index, title in enumerate(headers(comparison)):
        table.add_column(title.replace(" ", "\n"), justify="left" if index == 0 else "right", no_wrap=index == 0)
    for runs in comparison.rows:
        row = (text.replace(" [", "\n[") for text in cells(comparison, runs))
        table.add_row(*row, style="dim" if runs is comparison.floor else None)
    return table


def signed(interval: Interval) -> str:
    """`+1.2 [-0.3, +2.7]`."""
    return f"{_one(interval.value)} [{_one(interval.low)}, {_one(interval.high)}]"


def _difference(comparison: Comparison, runs: MethodRuns, metric: str) -> str:
    interval = runs.interval(metric)
    if interval is None:
        return _one(100.0 * runs.differences[metric][0])
    mark = f" {EQUIVALENT}" if comparison.equivalent(runs, metric) else ""
    return signed(interval.scaled(100.0)) + mark


def _one(value: float) -> str:
    """One signed decimal; what rounds to zero has no sign."""
    rounded = round(value, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def _line(row: tuple[str, ...]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in row) + " |"
