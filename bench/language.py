"""`python -m amu_fast.bench.language`: unlearning methods on small language models, tuned alike, at equal budgets.

Resumable: stop it whenever you like and start it again. `--summarise` makes the table from the records alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from amu_fast.errors import AmuFastError
from amu_fast.experiments.language.table import QUICK, LanguagePlan, make_table, write_summary
from amu_fast.experiments.language.wording import WORDS
from amu_fast.experiments.render import markdown


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a table; the exit status is 1 if records are unusable."""
    options = _parser().parse_args(arguments)
    folder = options.out or Path("out") / ("language-quick" if options.quick else "language")
    try:
        plan = _plan(options)
        summary = write_summary(plan, folder) if options.summarise else make_table(plan, folder, jobs=options.jobs)
    except AmuFastError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(markdown(summary, WORDS))
    print(f"table.md, table.json and table.png are in {folder}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m amu_fast.bench.language", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="two smaller units, three methods, one budget: up to 5 minutes"
    )
    parser.add_argument("--out", type=Path, help="folder of the records (default: out/language)")
    parser.add_argument("--units", type=int, help="judged units")
    parser.add_argument("--methods", nargs="+", help="rows, by name (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes, one thread each (default: 2)")
    parser.add_argument("--summarise", action="store_true", help="only aggregate the records in --out")
    return parser


def _plan(options: argparse.Namespace) -> LanguagePlan:
    plan = QUICK if options.quick else LanguagePlan()
    if options.units is not None:
        plan = replace(plan, units=tuple(range(options.units)))
    if options.methods is not None:
        plan = replace(plan, families=tuple(options.methods))
    return plan


if __name__ == "__main__":
    sys.exit(main())
