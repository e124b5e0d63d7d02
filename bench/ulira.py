"""`python -m amu_fast.bench.ulira`: does the strongest attack see what an unlearner left, and leave retrain alone?

Rows with wrong labels are planted: a model can know them by heart only. Of each of `--models` shadow models and of each
target a random half of the planted rows is in the training data and then unlearned, so that every planted row has half
of the shadows in the forgotten world and half in the never world. Unlearners: one that does nothing (the positive
control), fine-tuning, the game, and retraining twice by different seeds (the negative control). Models lie in files and
are made once; stop it and start it again at will.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amu_fast.audit.attacks import AttackResult, SplitOutputs
from amu_fast.audit.attacks.shadows import Shadows
from amu_fast.audit.attacks.ulira import ULira
from amu_fast.audit.intervals import TOST_LEVEL, Interval, equivalent, t_interval
from amu_fast.errors import AmuFastError
from amu_fast.experiments.tasks import DEMO_TASK, Task
from amu_fast.fleet import Fleet, Shadow, outputs_of, shadow_scores, ulira_specs
from amu_fast.report.provenance import Provenance, plain
from amu_fast.report.writing import write_atomic
from amu_fast.splits import Splits
from amu_fast.unlearn.methods import FineTune, Stackelberg
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.streams import generator, relabel

MARGIN = 0.05
"""On the AUC (S8)."""


@dataclass(frozen=True)
class Plan:
    """What is attacked.

    Attributes:
        task: Data, network and training; every model trains on `retain` rows and half of the planted ones.
        retain: Rows of the task's population that every model keeps.
        planted: Rows with a wrong label, half of them in each model.
        validation: Rows for the unlearners.
        models: Shadow models, half of them in either world of each row.
        targets: Attacked models.
        seed: Of everything.
    """

    task: Task = field(default_factory=lambda: replace(DEMO_TASK, noise=0.0))
    retain: int = 2_000
    planted: int = 200
    validation: int = 600
    models: int = 32
    targets: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Nothing:
    """The positive control: hands the model back as it is."""

    name: str = "nothing"

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Untouched:
        """The same model."""
        return Untouched(model)


@dataclass(frozen=True)
class Untouched:
    """A result without a run."""

    model: nn.Module
    report: None = None


def unlearners(plan: Plan) -> Mapping[str, Any]:
    """By name; the approximate ones at a budget of 12.5 % of retraining."""
    epochs, rows = 0.125 * plan.task.epochs, plan.task.unlearn_batch
    return {
        "nothing": Nothing(),
        "fine-tuning": FineTune(epochs=epochs, optimiser=Sgd(lr=0.1), batch_size=rows),
        "game": Stackelberg(epochs=epochs, weight=5.0, optimiser=Sgd(lr=0.15, momentum=0.0), batch_size=rows),
        "retrain": plan.task.training(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Attack; the exit status is 1 if data or files are unusable."""
    parser = argparse.ArgumentParser(prog="python -m amu_fast.bench.ulira", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/ulira"), help="folder of the models and the record")
    parser.add_argument("--models", type=int, default=Plan.models, help="shadow models, an even number (default: 32)")
    parser.add_argument(
        "--targets", type=int, default=Plan.targets, help="attacked models, an even number (default: 8)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    options = parser.parse_args(arguments)
    try:
        record = attack(Plan(models=options.models, targets=options.targets), options.out, options.jobs)
    except AmuFastError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_atomic(options.out / "ulira.json", json.dumps(record, indent=1).encode())
    write_atomic(options.out / "ulira.md", markdown(record).encode())
    print(markdown(record))
    return 0


def attack(plan: Plan, folder: Path, jobs: int) -> dict[str, Any]:
    """Make what is missing and attack every unlearner's targets with its own shadows."""
    data, retain, planted, validation = _rows(plan)
    specs = ulira_specs(planted, plan.models, retain=retain, seed=plan.seed)
    attacked = ulira_specs(planted, plan.targets, retain=retain, seed=plan.seed + 1)
    again = [replace(spec, seed=spec.seed + 1) for spec in attacked]
    results: dict[str, list[AttackResult]] = {}
    for name, method in unlearners(plan).items():
        print(f"{name}: {plan.models} shadow models and {plan.targets} targets", file=sys.stderr, flush=True)
        template = plan.task.network(plan.task.population())
        options = {"unlearn": method, "ask": planted, "validation": validation, "jobs": jobs}
        fleet = Fleet(template, data, plan.task.training(), folder / "models", **options)
        shadows = fleet.run(specs)
        results[name] = [_attack(target, shadows, data, planted) for target in fleet.run(attacked)]
        if name == "retrain":
            results["another retrain"] = [_attack(target, shadows, data, planted) for target in fleet.run(again)]
    return _record(plan, results)


def _attack(target: Shadow, shadows: Sequence[Shadow], data: Any, planted: Tensor) -> AttackResult:
    """The planted rows that the target forgot against those that it never saw."""
    forgot = torch.isin(planted, target.spec.forget)
    parts = [planted[forgot], planted[~forgot]]
    scores = [shadow_scores(shadows, data, rows) for rows in parts]
    outputs = SplitOutputs(*(outputs_of(target, data, rows) for rows in parts))
    return ULira(Shadows(*scores), min_pairs=len(shadows) // 2).run(outputs)


def _rows(plan: Plan) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor]:
    """Inputs and labels with the planted ones wrong; numbers of the retain, planted and validation rows."""
    population = plan.task.population()
    order = torch.randperm(len(population), generator=generator(plan.seed, "ulira"))
    retain, planted, validation = order.split([plan.retain, plan.planted, len(order) - plan.retain - plan.planted])[:3]
    labels = population.labels.clone()
    labels[planted] = relabel(labels[planted], population.classes, generator(plan.seed, "planted"))
    # validation rows are like the planted ones, as non-members of a game have to be
    validation = validation[: plan.validation]
    labels[validation] = relabel(labels[validation], population.classes, generator(plan.seed, "validation"))
    return (population.inputs, labels), retain.sort().values, planted.sort().values, validation.sort().values


def _record(plan: Plan, results: Mapping[str, Sequence[AttackResult]]) -> dict[str, Any]:
    aucs = {name: [result.auc.value for result in found] for name, found in results.items()}
    tprs = {name: [result.tpr[0.01].value for result in found] for name, found in results.items()}
    pairs = zip(aucs["another retrain"], aucs["retrain"], strict=True)
    negative = t_interval([a - b for a, b in pairs], TOST_LEVEL)
    return {
        "plan": plain(plan),
        "unlearners": {name: plain(method) for name, method in unlearners(plan).items()},
        "auc": {name: {"targets": found, **_plain(t_interval(found))} for name, found in aucs.items()},
        "tpr_at_1pct": {name: {"targets": found, **_plain(t_interval(found))} for name, found in tprs.items()},
        "negative_control": {**_plain(negative), "margin": MARGIN, "holds": equivalent(negative, MARGIN)},
        "provenance": plain(Provenance.collect(plan)),
    }


def _plain(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def markdown(record: Mapping[str, Any]) -> str:
    """The record for readers."""
    plan, negative = record["plan"], record["negative_control"]
    rows = "\n".join(
        f"| {name} | {_text(record['auc'][name])} | {_text(record['tpr_at_1pct'][name])} |" for name in record["auc"]
    )
    said = "equivalent" if negative["holds"] else "not shown to be equivalent"
    return (
        f"U-LiRA on {plan['task']['data']}: {plan['planted']} planted rows with wrong labels, {plan['models']} shadow "
        f"models an unlearner, {plan['targets']} targets; mean over targets and 95 % t-interval.\n\n"
        f"| unlearner | AUC, forgotten against never seen | TPR at 1 % FPR |\n|---|---|---|\n{rows}\n\n"
        f"Another retrain minus retrain, AUC: {_text(negative, '+')} (90 %): {said} within {negative['margin']}.\n"
    )


def _text(i: Mapping[str, float], sign: str = "") -> str:
    return f"{i['value']:{sign}.3f} [{i['low']:{sign}.3f}, {i['high']:{sign}.3f}]".replace("-", "−")


if __name__ == "__main__":
    sys.exit(main())
