"""A comparison for readers: Markdown, and for each forget set a picture of attained margin over budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from amu_fast.experiments.compare.spaces import spaces
from amu_fast.experiments.render import (
    HEADS,
    grid,
    interval,
    metric_cell,
    parameters_text,
    plain_number,
    provenance_line,
)
from amu_fast.report.pareto import MarginPoint, pareto_front
from amu_fast.report.writing import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from amu_fast.experiments.aggregate import Comparison, Row
    from amu_fast.experiments.compare.table import Compared, ForgetTable, Sensitivity

COMMAND = "amu-fast compare"
_REFERENCES = {"original": "original (nothing done)", "floor": "another retrain (floor)"}
_PANEL = {
    "rmia_auc": "RMIA offline, AUC",
    "modified_entropy_auc": "modified entropy, AUC",
    "loss_auc": "loss, AUC",
    "svm_auc": "SVM on all scores, AUC",
    "paper_accuracy": "logistic regression on the loss, accuracy",
    "mia_efficacy": "MIA-efficacy",
    "ks": "KS",
    "wasserstein_1": "W1",
}


def document(compared: Compared) -> str:
    """The whole document."""
    parts = [_header(compared), *(_table(table) for table in compared.tables)]
    return "\n\n".join([*parts, provenance_line(compared.provenance, COMMAND)]) + "\n"


def pareto(table: ForgetTable) -> bytes:
    """Attained margin over the budget that was used, every method at every budget; the front is drawn."""
    titles = _titles()
    points = [
        MarginPoint(titles[r.name], r.used, r.attained_margin, r.name == "stackelberg")
        for r in table.rows
        if r.share is not None and r.used
    ]
    floor = next(row.attained_margin for row in table.rows if row.name == "floor")
    return pareto_front(points, floor, f"{table.task['data']}, {table.forget_set}, {len(table.rows[0].units)} units")


def write(compared: Compared, folder: Path) -> None:
    """compare.md, compare.json and a picture per forget set; each is whole or absent."""
    for table in compared.tables:
        write_atomic(folder / f"pareto-{table.forget_set}.png", pareto(table))
    write_atomic(folder / "compare.md", document(compared).encode())
    write_atomic(folder / "compare.json", compared.to_json().encode())


def _titles() -> Mapping[str, str]:
    return {**_REFERENCES, **{name: space.title for name, space in spaces().items()}}


def _header(compared: Compared) -> str:
    plan = compared.plan
    return (
        f"# Every method at equal budgets and equal tuning\n\n"
        f"{len(plan['units'])} judged units (split, forget draw, training seed), {len(plan['tuning_units'])} others "
        f"for tuning: {plan['trials']} configurations of every method at every budget, judged there by V_tune, never "
        f"by test rows. Cells: signed difference to retrain in points (AUC × 100), mean and 95 % t-interval over "
        f"units; ✓: equivalent within its margin (90 % interval; test accuracy one-sided). Attack: loss calibrated by "
        f"reference models, on test rows that are like the forget rows. Attained margin: the smallest at which all "
        f"four are equivalent. Gap: mean absolute difference of the four, biased upward; read it beside the floor. "
        f"ToW: 1 is retrain. Collapses (test accuracy > 10 points under retrain's, or no model) are counted and stay "
        f"in. Used: share of retraining's gradient samples. Seconds: median, one thread; memory: of the process, "
        f"beyond what it held before."
    )


def _table(table: ForgetTable) -> str:
    t = table.task
    margins = ", ".join(f"{HEADS[k]} {v:.1f}" for k, v in table.margins.items())
    shares = sorted({row.share for row in table.rows if row.share is not None})
    parts = [
        f"## {table.forget_set}: {t['data']}, {t['train']:,} training rows, {t['forget']} forgotten",
        f"Margins in points: {margins}.",
        *(_budget(table, share) for share in shares),
        _sensitivity(table.sensitivity),
        _controls(table),
        _chosen(table),
    ]
    return "\n\n".join(part for part in parts if part)


def _budget(table: ForgetTable, share: float) -> str:
    titles = _titles()
    pairs = list(zip(table.rows, table.tow, strict=True))
    rows = [(row, tow) for row, tow in pairs if row.share in (None, share)]
    heads = ["", *HEADS.values(), "attained margin", "gap", "gap − floor", "ToW", "collapses", "used", "s", "MiB"]
    body = [[titles[row.name], *_cells(row), interval(tow, 3, ""), *_costs(row)] for row, tow in rows]
    panel = [[titles[r.name], *(plain_number(r.panel[k]) for k in _PANEL)] for r, _ in rows]
    comparisons = [c for c in table.comparisons if c.share == share]
    left_out = table.unaffordable[f"{share:g}"]
    return "\n\n".join(
        part
        for part in (
            f"### {table.forget_set}, budget {100 * share:g} % of retraining",
            grid(heads, body),
            f"Not run, as the budget does not pay for it: {', '.join(titles[n] for n in left_out)}."
            if left_out
            else "",
            _outcome(comparisons, titles),
            "Gap of the game minus gap of the other, points, paired by unit; below 0 the game is better:",
            grid(
                ["other", "difference, 95 % t-interval", "sign-flip p"],
                [
                    [titles[c.second], interval(c.difference, 2), "" if c.p is None else f"{c.p:.3f}"]
                    for c in comparisons
                ],
            ),
            "Other attacks and distances, means; the last two rise with noise alone (S10):",
            grid(["", *_PANEL.values()], panel),
        )
        if part
    )


def _cells(row: Row) -> list[str]:
    return [
        *(metric_cell(row, metric) for metric in HEADS),
        f"{row.attained_margin:.1f}",
        interval(row.gap, sign=""),
        "" if row.gap_minus_floor is None else interval(row.gap_minus_floor),
    ]


def _costs(row: Row) -> list[str]:
    peak = row.panel.get("peak_mib")
    return [
        f"{row.collapses}/{len(row.units)}",
        "" if row.used is None else f"{100 * row.used:.1f} %",
        f"{row.seconds:.1f}",
        "" if peak is None else f"{peak:.0f}",
    ]


def _outcome(comparisons: Sequence[Comparison], titles: Mapping[str, str]) -> str:
    """What the intervals say, in words, whichever way they fall."""
    if not comparisons:
        return ""
    better = [titles[c.second] for c in comparisons if c.difference.high < 0.0]
    worse = [titles[c.second] for c in comparisons if c.difference.low > 0.0]
    level = [titles[c.second] for c in comparisons if c.difference.contains(0.0)]
    said = (("better than", better), ("worse than", worse), ("not told apart from", level))
    return "The game is " + "; ".join(f"{verb} {', '.join(names)}" for verb, names in said if names) + "."


def _sensitivity(found: Sequence[Sensitivity]) -> str:
    if not found:
        return ""
    titles = _titles()
    body = [
        [titles[s.method], f"{s.weight} {s.value:.3g}", interval(s.half, 2), interval(s.double, 2), str(s.collapses)]
        for s in found
    ]
    heads = ["", "chosen", "gap at half of it, minus gap", "gap at twice of it, minus gap", "collapses"]
    return "\n\n".join(["### Sensitivity to the weight", grid(heads, body)])


def _controls(table: ForgetTable) -> str:
    failed = [str(c.unit) for c in table.controls if not c.passed]
    lowest = min(c.positive.low for c in table.controls)
    words = "none" if not failed else f"units {', '.join(failed)}"
    return (
        f"Controls: the original's calibrated AUC has a 95 % lower bound of at least {lowest:.3f} in every unit. Per "
        f"unit, another retrain equivalent to retrain within 5 points by its own rows, and that bound at least .55: "
        f"failed in {words} of {len(table.controls)} units (few rows fail the first by chance)."
    )


def _chosen(table: ForgetTable) -> str:
    titles = _titles()
    body = [
        [
            titles[s.family],
            f"{100 * s.share:g} %",
            parameters_text(s.best.parameters),
            f"{s.best.gap:.2f}",
            str(len(s.trials)),
            str(sum(t.collapses > 0 for t in s.trials)),
        ]
        for s in table.searches
    ]
    heads = ["method", "budget", "chosen", "gap on tuning units", "configurations", "of them with a collapse"]
    return "\n\n".join(["### Chosen hyper-parameters", grid(heads, body)])
