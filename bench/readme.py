"""`python -m amu_fast.bench.readme`: the README's results, made from the committed records; `--check` only compares."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from amu_fast.report.writing import write_atomic

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- results:begin -->\n", "<!-- results:end -->\n"


def budget_tables(document: str) -> str:
    """Of a `table.md`: its caption and, per budget, the table, the paired differences and the outcome."""
    caption = document.split("\n\n")[1]
    sections = [part for part in document.split("\n## ") if part.startswith("Budget ")]
    kept = [section.split("\n\nPopulation attacks")[0].strip() for section in sections]
    return "\n\n".join([*(f"### {section}" for section in kept), caption])


def results() -> str:
    """The block between the markers."""
    folder = ROOT / "bench" / "results"
    return f"""\
`make table` made this (resumable, on your machine below `out/table`). Its records are in
[bench/results/table](bench/results/table/table.md) with every trial of every search, the controls, further attacks and
the machine; `python -m amu_fast.bench.table --summarise --out bench/results/table` makes the table again from them.

{budget_tables((folder / "table" / "table.md").read_text())}

![Average gap to retraining against the budget](bench/results/table/table.png)

### The demo

`make demo`, one unit on MNIST-5k (`bench/results/demo`):

{(folder / "demo" / "table.md").read_text().strip()}

![Losses before the game, after it, and of a retrained model](bench/results/demo/losses.png)
"""


def rendered(text: str) -> str:
    """The README with its results renewed."""
    head, rest = text.split(BEGIN)
    return head + BEGIN + results() + END + rest.split(END)[1]


def main() -> int:
    """Renew the README, or say whether it is up to date (exit status 1 if not)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    options = parser.parse_args()
    old = README.read_text()
    new = rendered(old)
    if options.check:
        print("up to date" if old == new else "out of date: run python -m amu_fast.bench.readme")
        return int(old != new)
    write_atomic(README, new.encode())
    print(f"wrote {README}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
