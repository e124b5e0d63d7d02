"""`python -m amu_fast.bench.table`: every method, tuned alike, at equal budgets, judged on fresh units.

Resumable: stop it whenever you like and start it again. `--summarise` makes the table from the records alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from amu_fast.errors import AmuFastError
from amu_fast.experiments.render import markdown
from amu_fast.experiments.summary import summarise
from amu_fast.experiments.table import DEMO, QUICK, Plan, make_table, write_summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a table; the exit status is 1 if data or records are unusable."""
    options = _parser().parse_args(arguments)
    plan = _plan(options)
    folder = options.out or Path("out") / (
        "demo-table" if options.demo else "table-quick" if options.quick else "table"
    )
    try:
        if options.summarise:
            summary = summarise(folder, plan.units, plan.tuning_units, plan.shares, plan.families)
            write_summary(summary, folder)
        else:
            summary = make_table(plan, folder, data_dir=options.data_dir, jobs=options.jobs)
    except AmuFastError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(markdown(summary))
    print(f"table.md, table.json and table.png are in {folder}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m amu_fast.bench.table", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="three units of a smaller task, up to 10 minutes")
    size.add_argument("--demo", action="store_true", help="the demo's task, which is where its settings come from")
    parser.add_argument("--out", type=Path, help="folder of the records (default: out/table, by size)")
    parser.add_argument("--data-dir", type=Path, help="where the Fashion-MNIST IDX files are")
    parser.add_argument("--noise", type=float, help="share of labels replaced at random, such as 0.05")
    parser.add_argument("--units", type=int, help="judged units")
    parser.add_argument("--methods", nargs="+", help="rows, by name (default: all of the size)")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes, one thread each (default: 2)")
    parser.add_argument("--summarise", action="store_true", help="only aggregate the records in --out")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else DEMO if options.demo else Plan()
    if options.units is not None:
        plan = replace(plan, units=tuple(range(options.units)))
    if options.noise is not None:
        plan = replace(plan, task=replace(plan.task, noise=options.noise))
    if options.methods is not None:
        plan = replace(plan, families=tuple(options.methods))
    return plan


if __name__ == "__main__":
    sys.exit(main())
