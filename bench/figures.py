"""The tables of figures of the README and of docs/performance.md, from the records alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from amu_fast.bench import records
from amu_fast.bench.plots import outcome_text, seconds_text
from amu_fast.bench.records import Record

NONE = "No records yet: `make bench` makes them."
HEADER = "| size | contender | time per unit (p20–p80) | over ours | share of the limit | error | outcome |"
RULE = "| --- | --- | --- | --- | --- | --- | --- |"


def loaded(folder: Path, family: str, device: str = "cpu") -> list[Record]:
    """The latest records of one case on one device."""
    lines = records.latest(records.load(folder / f"{family.lower()}.csv"))
    return [line for line in lines if line.device == device]


def table(lines: Sequence[Record], *, notes: bool = False) -> str:
    """Every contender of every size, or that there are no records; `notes`: with their settings and what was seen."""
    if not lines:
        return NONE
    rows = [HEADER, RULE, *(_row(line) for line in lines)]
    if notes:
        ends = (" notes |", " --- |", *(f" {line.notes} |" for line in lines))
        rows = [row + end for row, end in zip(rows, ends, strict=True)]
    return "\n".join(rows) + "\n\n" + provenance(lines)


def provenance(lines: Sequence[Record]) -> str:
    """Machine, versions, commit of the newest of some records."""
    newest = max(lines, key=lambda line: line.run)
    facts = json.loads(newest.provenance)
    where = facts["gpu"]["name"] if "gpu" in facts else f"{facts['processor']}, {facts['threads']} threads"
    versions = ", ".join(f"{name} {number}" for name, number in sorted(facts["versions"].items()))
    commit = facts["commit"] or "unknown"
    return f"Run {newest.run} on {where}; commit {commit[:12]}{'+changes' if '+' in commit else ''}; {versions}."


def summary(folder: Path, device: str = "cpu") -> str:
    """One line per size: ours, the best contender that passed the gate, the limit."""
    lines = [line for family in ("p1", "p2", "p3", "p4", "p5") for line in loaded(folder, family, device)]
    if not lines:
        return NONE
    head = "| case | size | ours per unit | error | best other | its time over ours | share of the limit |\n" + RULE
    cases = dict.fromkeys((line.family, line.case) for line in lines)
    rows = [_summary([line for line in lines if (line.family, line.case) == case]) for case in cases]
    runs: dict[str, list[Record]] = {}
    for line in lines:
        runs.setdefault(line.run, []).append(line)
    sources = [f"{', '.join(dict.fromkeys(r.family for r in run))}: {provenance(run)}\n" for run in runs.values()]
    return "\n".join([head, *rows, "", *_released(lines), *sources]).rstrip("\n")


def _row(line: Record) -> str:
    spread = (
        f"{seconds_text(line.per_unit)} ({seconds_text(line.p20 / line.units)}–{seconds_text(line.p80 / line.units)})"
    )
    done = math.isfinite(line.seconds)
    cells = (
        line.case,
        f"**{line.contender}**" if line.ours else f"{line.contender}, {line.computes}",
        spread if done else "–",
        _number(line.ratio, "{:.3g}×"),
        _number(100 * line.share, "{:.3g} %"),
        _number(line.error, "{:.1e}"),
        line.outcome,
    )
    return f"| {' | '.join(cells)} |"


def _summary(lines: Sequence[Record]) -> str:
    ours = next((line for line in lines if line.ours), lines[0])
    # Same work, right answer.
    rivals = [r for r in lines if not r.contender.startswith("amu_fast") and r.computes == ours.computes]
    rivals = [r for r in rivals if math.isfinite(r.per_unit) and r.error <= r.tolerance]
    best = min(rivals, key=lambda r: r.per_unit, default=None)
    cells = (
        ours.family,
        ours.case,
        seconds_text(ours.per_unit) if math.isfinite(ours.per_unit) else outcome_text(ours),
        _number(ours.error, "{:.1e}"),
        best.contender if best else "–",
        _number(best.ratio, "{:.3g}×") if best else "–",
        _number(100 * ours.share, "{:.3g} %"),
    )
    return f"| {' | '.join(cells)} |"


def _released(lines: Sequence[Record]) -> list[str]:
    """The published form, which solves another problem, in a sentence."""
    found = [r for r in lines if r.contender == "cvxpylayers, released form" and math.isfinite(r.ratio)]
    if not found:
        return []
    cases = ", ".join(f"{r.ratio:,.0f}× ({r.case})" for r in found)
    return [f"The released form (a linear program built again for every problem, another optimum) takes {cases}.\n"]


def _number(value: float, form: str) -> str:
    # The dash stands for "was not measured".
    pick: Callable[[float], str] = form.format
    return pick(value) if math.isfinite(value) else "–"
