"""The table for readers: Markdown and a figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amu_fast.experiments.families import ABLATION, FAMILIES
from amu_fast.report.figures import GapPoint, budget_gap

if TYPE_CHECKING:
    from amu_fast.audit.intervals import Interval
    from amu_fast.experiments.aggregate import Comparison, Row
    from amu_fast.experiments.summary import Summary
    from amu_fast.report.provenance import Provenance


@dataclass(frozen=True)
class Words:
    """What one experiment calls its rows and columns.

    Attributes:
        titles: Of every row.
        heads: Of the headline metrics, in their order.
        panel: Of the other metrics, in their order.
        lines: Rows of the figure.
        header: The first paragraphs.
        panel_note: What stands above the panel.
        search_note: What stands above the chosen hyper-parameters.
        control: What the positive control is.
        controls_note: On the controls' rows.
        command: That makes the table.
    """

    titles: Mapping[str, str]
    heads: Mapping[str, str]
    panel: Mapping[str, str]
    lines: Sequence[str]
    header: Callable[[Summary], str]
    panel_note: str
    search_note: str
    control: str
    controls_note: Callable[[Summary], str]
    command: str


def markdown(summary: Summary, words: Words | None = None) -> str:
    """The whole document; by default in the words of the table of classifiers."""
    w = CLASSIFIERS if words is None else words
    parts = [w.header(summary), *(_budget(summary, share, w) for share in summary.shares), _controls(summary, w)]
    return "\n\n".join([*parts, _search(summary, w), provenance_line(summary.provenance, w.command)]) + "\n"


def figure(summary: Summary, words: Words | None = None) -> bytes:
    """Average gap over budget, one line per tuned method, the floor as a band."""
    w = CLASSIFIERS if words is None else words
    names = [name for name in w.lines if any(row.name == name for row in summary.rows)]
    lines = {w.titles[name]: [_point(r) for r in summary.rows if r.name == name] for name in names}
    floor = next(row.gap for row in summary.rows if row.name == "floor")
    title = f"{summary.task.get('data', 'fictitious authors')}, {len(summary.units)} units"
    return budget_gap(lines, (max(0.0, floor.low), floor.high), title)


def _point(row: Row) -> GapPoint:
    assert row.share is not None
    return GapPoint(row.share, row.gap.value, row.gap.low, row.gap.high)


def _budget(summary: Summary, share: float, w: Words) -> str:
    rows = [row for row in summary.rows if row.share in (None, share)]
    heads = ["", *w.heads.values(), "attained margin", "gap", "gap − floor", "collapses", "used", "s"]
    body = [
        [
            w.titles[r.name],
            *(metric_cell(r, m) for m in w.heads),
            f"{r.attained_margin:.1f}",
            interval(r.gap, sign=""),
            "" if r.gap_minus_floor is None else interval(r.gap_minus_floor),
            f"{r.collapses}/{len(r.units)}",
            "" if r.used is None else f"{100 * r.used:.1f} %",
            "" if r.seconds is None else f"{r.seconds:.1f}",
        ]
        for r in rows
    ]
    panel = [[w.titles[r.name], *(plain_number(r.panel[k]) for k in w.panel)] for r in rows]
    pairs = [_pair(c, w) for c in summary.comparisons if c.share == share]
    return "\n\n".join(
        [
            f"## Budget {100 * share:g} % of retraining",
            grid(heads, body),
            "Gap of the first minus gap of the second, points, paired by unit; below 0 the first is better:",
            grid(["first", "second", "difference, 95 % t-interval", "sign-flip p"], pairs),
            _outcome([c for c in summary.comparisons if c.share == share], w),
            w.panel_note,
            grid(["", *w.panel.values()], panel),
        ]
    )


def plain_number(value: float) -> str:
    """Three digits, or a dash where there is no value."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def _pair(c: Comparison, w: Words) -> list[str]:
    return [w.titles[c.first], w.titles[c.second], interval(c.difference, 2), "" if c.p is None else f"{c.p:.3f}"]


def _outcome(comparisons: Sequence[Comparison], w: Words) -> str:
    """What the intervals say, in words, whichever way they fall."""
    better = [w.titles[c.second] for c in comparisons if c.difference.high < 0.0]
    worse = [w.titles[c.second] for c in comparisons if c.difference.low > 0.0]
    level = [w.titles[c.second] for c in comparisons if c.difference.contains(0.0)]
    said = (("better than", better), ("worse than", worse), ("not told apart from", level))
    return "The game is " + "; ".join(f"{verb} {', '.join(names)}" for verb, names in said if names) + "."


def _controls(summary: Summary, w: Words) -> str:
    body = [
        [
            str(c.unit),
            f"{c.positive.value:.3f} (≥ {c.positive.low:.3f})",
            interval(c.negative.scaled(100.0)),
            "yes" if c.passed else "no",
        ]
        for c in summary.controls
    ]
    heads = ["unit", f"original: {w.control} (95 % lower bound)", "floor − retrain, 90 %", "passed"]
    text = (
        f"Over the {len(summary.units)} judged units: {w.control} of the original "
        f"{interval(summary.positive_control, 3, '')} (95 %), another retrain minus retrain in points "
        f"{interval(summary.negative_control.scaled(100.0))} (90 %). Per unit, passed: lower bound ≥ .55, and another "
        f"retrain equivalent to the first within 5 points by its own rows; {w.controls_note(summary)}"
    )
    return "\n\n".join(["## Controls", text, grid(heads, body)])


def _search(summary: Summary, w: Words) -> str:
    body = [
        [
            w.titles[s.family],
            f"{100 * s.share:g} %",
            parameters_text(s.best.parameters),
            f"{s.best.gap:.2f}",
            str(len(s.trials)),
            str(sum(t.collapses > 0 for t in s.trials)),
        ]
        for s in summary.searches
    ]
    heads = ["method", "budget", "chosen", "gap on tuning units", "configurations", "of them with a collapse"]
    text = (
        "Two parameters of each method were searched on units "
        f"{' and '.join(map(str, summary.tuning_units))} by the gap to those units' own retrained models: a grid of 8, "
        f"then fours around the best. {w.search_note} None of these units is judged. Every trial is in the JSON."
    )
    return "\n\n".join(["## Chosen hyper-parameters", text, grid(heads, body)])


def provenance_line(p: Provenance, command: str) -> str:
    """How the document came about, in one line."""
    versions = ", ".join(f"{k} {v}" for k, v in p.versions.items())
    return f"Made by `{command}` · {versions} · commit {p.commit} · {p.platform}"


def metric_cell(row: Row, metric: str) -> str:
    """A signed difference with its interval, marked where it is equivalent to retrain."""
    return interval(row.differences[metric]) + (" ✓" if row.holds[metric] else "")


def interval(i: Interval, digits: int = 1, sign: str = "+") -> str:
    """Value and interval."""
    value, low, high = (f"{x:{sign}.{digits}f}" for x in (i.value, i.low, i.high))
    return f"{value} [{low}, {high}]".replace("-", "−")


def parameters_text(parameters: Mapping[str, float]) -> str:
    """Names and values."""
    return ", ".join(f"{name} {value:.3g}" for name, value in parameters.items())


def grid(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *body)]
    return "\n".join(lines)


def _header(summary: Summary) -> str:
    t = summary.task
    noise = f"{100 * t['noise']:g} % of all labels replaced at random" if t["noise"] else "no label noise"
    margins = ", ".join(f"{HEADS[k]} {v:.1f}" for k, v in summary.margins.items())
    return (
        f"# Methods at equal budgets: {t['data']}, {t['train']:,} training rows, {t['forget']} forgotten, {noise}\n\n"
        f"{len(summary.units)} judged units (split, forget draw, training seed), {len(summary.tuning_units)} other "
        f"units for tuning. Cells: signed difference to retrain in points (AUC × 100), mean and 95 % t-interval over "
        f"units; ✓: equivalent within its margin ({margins}; test one-sided; 90 % interval). Attack: loss calibrated "
        f"by {t['references']} reference models. Attained margin: the smallest at which all four are equivalent, a "
        f"point value. Gap: mean absolute difference of the four, biased upward; read it beside the floor. Collapses "
        f"(test accuracy > 10 points under retrain's) are counted and stay in. Used: share of retraining's gradient "
        f"samples. Seconds: median, one thread."
    )


HEADS = {"retain_accuracy": "retain", "forget_accuracy": "forget", "test_accuracy": "test", "attack_auc": "attack AUC"}
REFERENCE_TITLES = {"original": "original (nothing done)", "floor": "another retrain (floor)"}
CLASSIFIERS = Words(
    titles={
        **REFERENCE_TITLES,
        **{family.name: family.title for family in FAMILIES},
        **{name: title for name, (title, _) in ABLATION.items()},
    },
    heads=HEADS,
    panel={
        "paper_accuracy": "paper's attack, accuracy",
        "paper_auc": "its AUC",
        "svm_auc": "SVM AUC",
        "loss_auc": "loss AUC",
        "ks": "KS",
        "wasserstein_1": "W1",
        "utility": "utility",
    },
    lines=tuple(family.name for family in FAMILIES if family.name != "gradient_ascent"),
    header=_header,
    panel_note="Population attacks and distances, means; too weak to judge by, shown as published tables have them:",
    search_note="Momentum, batch and score of each row were fixed before, on units 900 to 902.",
    control="calibrated AUC",
    controls_note=lambda s: f"with {s.task['forget']} forget rows the second fails by chance now and then.",
    command="python -m amu_fast.bench.table",
)
