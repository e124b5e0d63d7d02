"""`python -m amu_fast.bench.deletions`: ten deletion requests in a row, and what is left after each, against retrain.

Per unit (split, requests, training seed): one model is trained, then requests of `--rows` rows come in through a
`DeletionQueue` and are unlearned one after the other, each from the model that the one before left. After request k the
model is compared with one that was retrained without the rows of the first k requests. One record per unit; stop it and
start it again at will.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amu_fast.audit.attacks import SplitOutputs
from amu_fast.audit.intervals import average_gap, t_interval
from amu_fast.errors import AmuFastError
from amu_fast.experiments.evaluate import differences, headline
from amu_fast.experiments.population import Population
from amu_fast.experiments.tasks import DEMO_TASK, Task
from amu_fast.experiments.workers import run_jobs
from amu_fast.report.provenance import Provenance, config_hash, plain
from amu_fast.report.writing import write_atomic
from amu_fast.rows import Rows
from amu_fast.splits import PARTS, Splits
from amu_fast.unlearn.methods import FineTune, Stackelberg
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.requests import DeletionQueue

METRICS = {"retain_accuracy": "retain", "forget_accuracy": "forgotten", "test_accuracy": "test", "attack_auc": "attack"}


@dataclass(frozen=True)
class Plan:
    """What is asked.

    Attributes:
        task: Data, sizes, network, training.
        units: Numbers of units.
        requests: In a row.
        rows: Of a request.
        share: Budget of a request, a share of retraining's gradient samples.
    """

    task: Task = field(default_factory=lambda: DEMO_TASK)
    units: tuple[int, ...] = tuple(range(5))
    requests: int = 10
    rows: int = 50
    share: float = 0.05


def methods(plan: Plan) -> dict[str, Any]:
    """By name."""
    epochs, batch = plan.share * plan.task.epochs, plan.task.unlearn_batch
    return {
        "game": Stackelberg(epochs=epochs, weight=5.0, optimiser=Sgd(lr=0.15, momentum=0.0), batch_size=batch),
        "fine-tuning": FineTune(epochs=epochs, optimiser=Sgd(lr=0.1), batch_size=batch),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; the exit status is 1 if data or records are unusable."""
    parser = argparse.ArgumentParser(prog="python -m amu_fast.bench.deletions", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/deletions"), help="folder of the records")
    parser.add_argument("--units", type=int, default=len(Plan.units), help="units (default: 5)")
    parser.add_argument("--requests", type=int, default=Plan.requests, help="requests in a row (default: 10)")
    parser.add_argument("--rows", type=int, default=Plan.rows, help="rows of a request (default: 50)")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes, one thread each (default: 2)")
    options = parser.parse_args(arguments)
    plan = Plan(units=tuple(range(options.units)), requests=options.requests, rows=options.rows)
    try:
        run_jobs("units", [partial(run_unit, plan, unit, options.out) for unit in plan.units], options.jobs)
        record = summarise(plan, options.out)
    except AmuFastError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_atomic(options.out / "deletions.json", json.dumps(record, indent=1).encode())
    write_atomic(options.out / "deletions.md", markdown(record).encode())
    print(markdown(record))
    return 0


def run_unit(plan: Plan, unit: int, folder: Path) -> str:
    """One unit's record, if it is missing."""
    path = _path(plan, unit, folder)
    if path.is_file():
        return f"unit {unit}: done before"
    population = plan.task.population()
    train, rest = plan.task.training_rows(population, unit)
    test, validation = rest[: plan.task.test], rest[plan.task.test :][: plan.task.validation]
    wanted = [train[k * plan.rows : (k + 1) * plan.rows] for k in range(plan.requests)]
    data = (population.inputs, population.labels)
    seeds = iter(range(unit * 1000, unit * 1000 + 1000))

    def trained(left_out: int) -> nn.Module:
        """A model trained without the rows of the first `left_out` requests."""
        kept = train[left_out * plan.rows :]
        splits = Splits.from_indices(data, retain=kept, forget=test[:1], validation=validation)
        return plan.task.training().unlearn(plan.task.network(population), splits, seed=next(seeds)).model

    original, references = trained(0), [trained(plan.requests) for _ in range(plan.task.references)]
    retrained = [trained(k + 1) for k in range(plan.requests)]
    floor = trained(plan.requests)
    parts = [
        Splits.from_indices(
            data,
            retain=train[(k + 1) * plan.rows :],
            forget=torch.cat(wanted[: k + 1]),
            validation=validation,
            test=test,
        )
        for k in range(plan.requests)
    ]
    judge = partial(_judge, parts, references, retrained)
    found = {"nothing": [judge(k, original) for k in range(plan.requests)]}
    for name, method in methods(plan).items():
        found[name] = _queue(plan, folder / "queues" / f"{name}-{path.stem}", method, original, population, judge, unit)
    found["another retrain"] = [judge(plan.requests - 1, floor)]
    write_atomic(path, json.dumps({"unit": unit, "after": found}, indent=1).encode())
    return f"unit {unit}: done"


def _queue(
    plan: Plan,
    folder: Path,
    method: Any,
    original: nn.Module,
    population: Population,
    judge: Callable[[int, nn.Module], dict[str, float]],
    unit: int,
) -> list[dict[str, float]]:
    """All requests through a queue, one at a time."""
    train, rest = plan.task.training_rows(population, unit)
    rows = Rows.of((population.inputs, population.labels))
    test, validation = rest[: plan.task.test], rest[plan.task.test :][: plan.task.validation]
    queue = DeletionQueue(
        folder, original, rows.take(train), rows.take(validation), rows.take(test), method, seed=unit * 1000 + 500
    )
    after = []
    known = len(queue.state.requests)
    for k in range(plan.requests):
        if k >= known:
            queue.submit(f"request {k + 1}", range(k * plan.rows, (k + 1) * plan.rows))
        queue.process(figures=False)
        after.append(judge(k, queue.current_model()))
    return after


def _judge(
    parts: Sequence[Splits],
    references: Sequence[nn.Module],
    retrained: Sequence[nn.Module],
    k: int,
    model: nn.Module,
) -> dict[str, float]:
    """Signed differences to the model retrained without the first k + 1 requests, and their gap in points."""
    outputs = [SplitOutputs.of(m, parts[k], PARTS, 1000) for m in (model, retrained[k], *references)]
    mine, retrain = (headline(o, outputs[2:]) for o in outputs[:2])
    signed = differences(mine, retrain)
    return {**signed, "gap": average_gap(signed)}


def summarise(plan: Plan, folder: Path) -> dict[str, Any]:
    """Mean and interval over units, after each request."""
    records = [json.loads(_path(plan, unit, folder).read_text())["after"] for unit in plan.units]
    table = {}
    for name, first in records[0].items():
        after = []
        for k, metrics in enumerate(first):
            intervals = {m: t_interval([record[name][k][m] for record in records]) for m in metrics}
            scaled = {m: i if m == "gap" else i.scaled(100.0) for m, i in intervals.items()}
            after.append({m: [i.value, i.low, i.high] for m, i in scaled.items()})
        table[name] = after
    configured = {name: plain(method) for name, method in methods(plan).items()}
    return {"plan": plain(plan), "methods": configured, "after": table, "provenance": plain(Provenance.collect(plan))}


def markdown(record: dict[str, Any]) -> str:
    """After each request, or after the last one where there is no queue."""
    plan = record["plan"]
    lines = [
        f"{plan['requests']} requests of {plan['rows']} rows each, one after the other, {len(plan['units'])} units of "
        f"{plan['task']['data']}, {100 * plan['share']:g} % of retraining for each request. Difference to a model "
        "retrained without all rows requested so far, in points, mean and 95 % t-interval over units.",
        "",
        "| after request | model | " + " | ".join(METRICS.values()) + " | gap |",
        "|---|---|" + "---|" * (len(METRICS) + 1),
    ]
    for k in range(plan["requests"]):
        for name, after in record["after"].items():
            if name == "another retrain":
                if k + 1 == plan["requests"]:
                    lines.append(_line(k, name, after[0]))
            else:
                lines.append(_line(k, name, after[k]))
    return "\n".join(lines) + "\n"


def _line(k: int, name: str, after: dict[str, list[float]]) -> str:
    cells = [_text(after[m], "+") for m in METRICS] + [_text(after["gap"], "")]
    return f"| {k + 1} | {name} | " + " | ".join(cells) + " |"


def _text(interval: Sequence[float], sign: str) -> str:
    value, low, high = (f"{x:{sign}.1f}" for x in interval)
    return f"{value} [{low}, {high}]".replace("-", "−")


def _path(plan: Plan, unit: int, folder: Path) -> Path:
    """The unit's record, named by what it is a record of."""
    facts = config_hash([plain(replace(plan, units=())), methods(plan), torch.__version__])
    return folder / "records" / f"unit-{unit}-{facts[:12]}.json"


if __name__ == "__main__":
    sys.exit(main())
