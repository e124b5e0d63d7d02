"""`amu-fast demo`: the main job on real images, end to end, with its report.

Per unit: train a CNN until it memorises, draw 500 images to forget, retrain without them (the answer), and let every
method try to reach that answer on an eighth of retraining's work. Hyper-parameters were tuned on other units by
`python -m amu_fast.bench.table --demo`; none looked at the units shown.
"""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from amu_fast.audit.attacks import CalibratedLoss, SplitOutputs
from amu_fast.audit.intervals import TOST_LEVEL, Interval, accuracy_difference
from amu_fast.audit.roc import roc_curve
from amu_fast.certificate import Policy
from amu_fast.experiments.audit_folder import house_policy, save_audit
from amu_fast.experiments.evaluate import HEADLINE, Controls, calibrated_scores, differences, headline
from amu_fast.experiments.families import FAMILIES
from amu_fast.experiments.runs import MethodRun, run_method
from amu_fast.experiments.units import DEMO_TASK, Task, Unit, prepare_unit
from amu_fast.report import figures
from amu_fast.report.codec import dumps
from amu_fast.report.comparison import Comparison, MethodRuns
from amu_fast.report.console import markdown, rich_table
from amu_fast.report.provenance import Provenance
from amu_fast.report.report import MethodRecord
from amu_fast.report.writing import write_atomic

SCHEMA = "amu-fast-demo/1"
#: Share of retraining's gradient samples that every method gets.
BUDGET = 0.125
#: Equivalence margins in points, fixed beforehand (docs/statistics.md, S8).
MARGINS = {"retain_accuracy": 3.0, "forget_accuracy": 3.0, "test_accuracy": 1.0, "attack_auc": 5.0}
LABELS = {
    "retain_accuracy": "retain",
    "forget_accuracy": "forget",
    "test_accuracy": "test",
    "attack_auc": "attack AUC",
}
#: Tuned on units 900 and 901; see the module's docstring.
PARAMETERS: dict[str, dict[str, float]] = {
    "fine_tune": {"lr": 0.139, "batch": 23},
    "neg_grad_plus": {"lr": 1.04, "forget_weight": 0.26},
    "moment_matching": {"lr": 0.252, "weight": 2.0},
    "stackelberg": {"lr": 0.15, "weight": 9.51},
}
_PARTS = ("forget", "test", "retain")
_SHOWN = "stackelberg"
GAME_FOLDER = "game"
_TABLE_WIDTH = 124


@dataclass(frozen=True)
class DemoReport:
    """What `report.json` holds.

    Attributes:
        task: Configuration of the units.
        units: Their seeds.
        budget: Share of retraining's gradient samples.
        margins: Equivalence margins in points.
        controls: Per unit: AUC of the calibrated attack on the original, its difference between two retrained models,
            and whether both controls passed (S11).
        comparison: Signed differences to retrain.
        runs: Every run with its whole configuration.
        history: Both players over the steps of the first unit's game.
        provenance: Versions, commit, machine, backends.
    """

    task: Task
    units: tuple[int, ...]
    budget: float
    margins: dict[str, float]
    controls: tuple[dict[str, Any], ...]
    comparison: Comparison
    runs: tuple[Any, ...]
    history: Any
    provenance: Provenance


@dataclass(frozen=True)
class _UnitRuns:
    unit: Unit
    controls: Controls
    runs: dict[str, MethodRun]
    policy: Policy


def run_demo(*, data: str, data_dir: Path | None, units: int, seed: int, out: Path, as_json: bool) -> None:
    """Run the demo and write report.json, table.md and pictures below `out`, and the audited game in its folder.

    Raises:
        DataError: Unknown or missing data.
        BackendError: A package that the demo needs is not installed.
    """
    from rich.console import Console

    console = Console(stderr=as_json)
    task = replace(DEMO_TASK, data=data)
    console.print(
        f"{task.data}: {task.train} training images, {task.forget} of them to forget, {task.noise:.0%} of all labels "
        f"wrong on purpose, so that there is something to memorise. Each method gets {BUDGET:.1%} of retraining's work."
    )
    population = task.population(data_dir)
    done = []
    for number in range(seed, seed + units):
        unit = prepare_unit(task, number, out / "cache", population=population, notify=console.print)
        done.append(_run_unit(unit, console))
    report = _report(task, done)
    _write(out, report, done[0])
    if as_json:
        document = json_module.loads(dumps(report, SCHEMA))
        print(json_module.dumps({"out": str(out), "report": document}, indent=2))
        return
    # Narrower, the intervals would be cut; a terminal that is narrower wraps the lines.
    Console(width=max(console.width, _TABLE_WIDTH)).print(rich_table(report.comparison))
    console.print(
        f"wrote report.json, table.md and pictures in {out}, the game's audit in {out}/game/report.html", soft_wrap=True
    )


def _run_unit(unit: Unit, console: Any) -> _UnitRuns:
    controls = Controls.of(unit.outputs, unit.references)
    console.print(
        f"unit {unit.seed}: the attack finds the forgotten images in the original with AUC {_span(controls.positive)}; "
        f"between two retrained models it differs by {_span(controls.negative)}: "
        f"controls {'passed' if controls.passed else 'FAILED, read the table with care'}"
    )
    runs, policy = {}, house_policy(unit, MethodRecord.of(_method(unit, _SHOWN)))
    for family in FAMILIES:
        if family.name in PARAMETERS:
            parameters = PARAMETERS[family.name]
            method = _method(unit, family.name)
            runs[family.title] = run_method(unit, method, parameters=parameters)
            record = runs[family.title].record
            console.print(f"unit {unit.seed}: {family.title}, {record.seconds:.1f} s, gap {record.gap:.1f} points")
    return _UnitRuns(unit, controls, runs, policy)


def _method(unit: Unit, name: str) -> Any:
    family = next(family for family in FAMILIES if family.name == name)
    return family.build(PARAMETERS[name], BUDGET * unit.task.epochs, unit.task)


def _span(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _report(task: Task, done: Sequence[_UnitRuns]) -> DemoReport:
    rows = [_trained("original", "original", done)]
    for title in done[0].runs:
        outputs = [d.runs[title].outputs for d in done]
        rows.append(_row(title, done, outputs, [d.runs[title].record.seconds for d in done]))
    floor = _trained("another retrain", "floor", done)
    title = f"{task.data}, {task.train} rows, {task.forget} forgotten, budget {BUDGET:.1%} of retraining"
    return DemoReport(
        task=task,
        units=tuple(d.unit.seed for d in done),
        budget=BUDGET,
        margins=MARGINS,
        controls=tuple(
            {
                "unit": d.unit.seed,
                "positive": d.controls.positive,
                "negative": d.controls.negative,
                "passed": d.controls.passed,
            }
            for d in done
        ),
        comparison=Comparison(tuple(rows), floor, HEADLINE, title, LABELS, MARGINS),
        runs=tuple(run.record for d in done for run in d.runs.values()),
        history=_game(done[0]).result.report.history if _game(done[0]).result is not None else None,
        provenance=Provenance.collect(task, done[0].unit.splits),
    )


def _trained(name: str, role: str, done: Sequence[_UnitRuns]) -> MethodRuns:
    """The row of one of the units' own models."""
    return _row(name, done, [d.unit.outputs[role] for d in done], [d.unit.seconds[role] for d in done])


def _row(name: str, done: Sequence[_UnitRuns], outputs: Sequence[SplitOutputs], seconds: Sequence[float]) -> MethodRuns:
    """A row of the table; with a single unit, intervals over its rows."""
    figures = []
    for d, out in zip(done, outputs, strict=True):
        retrain = headline(d.unit.outputs["retrain"], d.unit.references)
        figures.append(differences(headline(out, d.unit.references), retrain))
    single = len(done) == 1
    return MethodRuns(
        name=name,
        differences={metric: tuple(f[metric] for f in figures) for metric in HEADLINE},
        seconds=tuple(seconds),
        collapses=sum(f["test_accuracy"] < -0.10 for f in figures),
        row_intervals=_row_intervals(done[0].unit, outputs[0], 0.95) if single else {},
        tost_intervals=_row_intervals(done[0].unit, outputs[0], TOST_LEVEL) if single else {},
    )


def _row_intervals(unit: Unit, outputs: SplitOutputs, level: float) -> dict[str, Interval]:
    retrain = unit.outputs["retrain"]
    intervals = {
        f"{part}_accuracy": accuracy_difference(outputs.require(part).correct, retrain.require(part).correct, level)
        for part in ("retain", "forget", "test")
    }
    attack = CalibratedLoss(unit.references)
    intervals["attack_auc"] = attack.run(outputs).difference_to(attack.run(retrain), level=level)
    return intervals


def _game(done: _UnitRuns) -> MethodRun:
    title = next(family.title for family in FAMILIES if family.name == _SHOWN)
    return done.runs[title]


def _write(out: Path, report: DemoReport, first: _UnitRuns) -> None:
    """The audit and the pictures are of the first unit and its game."""
    out.mkdir(parents=True, exist_ok=True)
    if _game(first).result is not None:
        save_audit(out / GAME_FOLDER, first.unit, _game(first), first.policy)
    models = {
        "before": first.unit.outputs["original"],
        "after": _game(first).outputs,
        "retrained": first.unit.outputs["retrain"],
    }
    losses = {
        name: {part: np.asarray(o.require(part).require("loss")) for part in _PARTS} for name, o in models.items()
    }
    curves = {
        name: roc_curve(*calibrated_scores(models[key], first.unit.references))
        for name, key in (("original", "before"), ("unlearned", "after"), ("retrained", "retrained"))
    }
    write_atomic(out / "losses.png", figures.loss_histograms(losses, "Losses before and after the game"))
    write_atomic(out / "roc.png", figures.roc(curves, "Calibrated loss attack, forget against test"))
    if report.history is not None:
        write_atomic(out / "players.png", figures.player_curves(report.history, "Both players"))
    write_atomic(out / "table.md", markdown(report.comparison).encode())
    write_atomic(out / "report.json", dumps(report, SCHEMA).encode())
