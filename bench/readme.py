"""`python -m amu_fast.bench.readme`: what the README and the pages below docs/ take from the committed records.

`--check` only compares.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from amu_fast.bench import figures
from amu_fast.report.writing import write_atomic

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
README = ROOT / "README.md"
PERFORMANCE = ROOT / "docs" / "performance.md"
LARGE = ROOT / "docs" / "large-models.md"
AUDIT = ROOT / "docs" / "audit.md"
START = ROOT / "docs" / "start.md"
EXPLAINED = ROOT / "docs" / "game-explained.md"
#: Operator A-G -> (family, start of its case's name): whose records docs/performance.md shows where.
OPERATORS = {
    "A": ("P1", ""),
    "B": ("P2", "[0-9]"),
    "C": ("P2", "glm_hvp_multi"),
    "D": ("P2", "glm_gradient_curvature"),
    "F": ("P2", "glm_mixed_vjp"),
    "spd_solve": ("P3", ""),
    "module": ("P4", ""),
    "solve": ("P5", ""),
}
NOTED = ("P4",)


def budget_tables(document: str) -> str:
    """Of a `table.md`: its caption and, per budget, the table, the paired differences and the outcome."""
    caption = document.split("\n\n")[1]
    sections = [part for part in document.split("\n## ") if part.startswith("Budget ")]
    kept = [re.split("\n\n(?:Population attacks|AUC of a linear probe)", section)[0].strip() for section in sections]
    return "\n\n".join([*(f"### {section}" for section in kept), caption])


def results() -> str:
    """The README's results of the game."""
    return f"""\
`make table` made this (resumable, on your machine below `out/table`). Its records are in
[bench/results/table](bench/results/table/table.md) with every trial of every search, the controls, further attacks and
the machine; `python -m amu_fast.bench.table --summarise --out bench/results/table` makes the table again from them.

{budget_tables((RESULTS / "table" / "table.md").read_text())}

![Average gap to retraining against the budget](bench/results/table/table.png)

### The demo

`make demo`, one unit on MNIST-5k (`bench/results/demo`):

{(RESULTS / "demo" / "table.md").read_text().strip()}

![Losses before the game, after it, and of a retrained model](bench/results/demo/losses.png)
"""


def performance() -> str:
    """The README's figures of speed."""
    return figures.summary(RESULTS) + "\n"


def operator_table(name: str) -> str:
    """All contenders of one operator of docs/performance.md."""
    family, start = OPERATORS[name]
    lines = [line for line in figures.loaded(RESULTS, family) if re.match(start, line.case)]
    return figures.table(lines, notes=family in NOTED) + "\n"


def language() -> str:
    """The table of methods on small language models."""
    return f"""\
{budget_tables((RESULTS / "language" / "table.md").read_text())}

![Average gap to retraining against the budget](../bench/results/language/table.png)
"""


def language_memory() -> str:
    """What the game adds to a step on a language model."""
    found = json.loads((RESULTS / "language-memory.json").read_text())
    size, facts, seconds = found["size"], found["machine"], found["seconds"]
    rows = [
        "| step | peak | beyond training | forward + backward (p20–p80) | beyond training |",
        "| --- |" + " --- |" * 4,
    ]
    for name, memory in found["memory"].items():
        cells = [name, f"{memory['peak'] / 2**20:.1f} MiB", f"{memory['extra']:+.1%}", "–", "–"]
        if name in seconds:
            median, p20, p80 = (f"{1e3 * seconds[name][key]:.0f}" for key in ("median", "p20", "p80"))
            cells[3:] = f"{median} ms ({p20}–{p80})", f"{seconds[name]['beyond_training']:+.1%}"
        rows.append(f"| {' | '.join(cells)} |")
    model = f"{size['layers']} layers, width {size['hidden']}, {size['vocabulary']:,} words"
    return "\n".join([
        *rows,
        "",
        f"A Llama of {model}; {size['rows']} rows of {size['length']} tokens, float32. Run {found['run']} on "
        f"{facts['processor']}, {facts['threads']} threads; commit {facts['commit'][:12]}; "
        f"torch {facts['versions']['torch']}.",
        "",
    ])  # fmt: skip


def compared() -> str:
    """The comparison of all methods: per forget set and budget the table, the outcome and the paired differences."""
    document = (RESULTS / "compare" / "compare.md").read_text()
    caption = document.split("\n\n")[1]
    parts = [part for part in re.split(r"\n#{2,3} ", document) if ", budget " in part.split("\n")[0]]
    kept = [part.split("\n\nOther attacks and distances")[0].strip() for part in parts]
    pictures = sorted(path.name for path in (RESULTS / "compare").glob("pareto-*.png"))
    shown = [f"![Attained margin over budget](../bench/results/compare/{name})" for name in pictures]
    whole = "Further attacks, controls, sensitivity and chosen hyper-parameters: "
    return "\n\n".join([
        caption,
        *(f"### {part}" for part in kept),
        *shown,
        f"{whole}[compare.md](../bench/results/compare/compare.md).",
    ]) + "\n"  # fmt: skip


def of_record(name: str) -> str:
    """The Markdown beside a record, with the machine that made it."""
    folder = RESULTS / name
    origin = json.loads((folder / f"{name}.json").read_text())["provenance"]
    versions = ", ".join(f"{package} {number}" for package, number in origin["versions"].items())
    text = (folder / f"{name}.md").read_text().strip()
    return f"{text}\n\nMade on {origin['platform']}; {versions}; commit {origin['commit'][:12]}.\n"


def demo() -> str:
    """What `make demo` ends with."""
    return (RESULTS / "demo" / "table.md").read_text().strip() + "\n"


#: Document -> marker -> what stands between its begin and end.
BLOCKS: dict[Path, dict[str, Callable[[], str]]] = {
    README: {"results": results, "performance": performance},
    PERFORMANCE: {
        "performance": performance,
        **{f"operator {name}": lambda name=name: operator_table(name) for name in OPERATORS},  # type: ignore[misc]
    },
    LARGE: {"language": language, "language memory": language_memory},
    AUDIT: {
        "compare": compared,
        "ulira": lambda: of_record("ulira"),
        "deletions": lambda: of_record("deletions"),
    },
    START: {"demo": demo},
    EXPLAINED: {"pictures": lambda: of_record("pictures")},
}


def rendered(text: str, document: Path = README) -> str:
    """A document with its generated blocks renewed; one that it does not contain is left out."""
    for marker, block in BLOCKS[document].items():
        begin, end = f"<!-- {marker}:begin -->\n", f"<!-- {marker}:end -->\n"
        if begin in text:
            head, rest = text.split(begin)
            text = head + begin + block() + end + rest.split(end)[1]
    return text


def main() -> int:
    """Renew the documents, or say whether they are up to date (exit status 1 if not)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only")
    options = parser.parse_args()
    status = 0
    for document in BLOCKS:
        old = document.read_text()
        new = rendered(old, document)
        if options.check:
            print(f"{document.name}: {'up to date' if old == new else 'out of date'}")
            status |= int(old != new)
        else:
            write_atomic(document, new.encode())
            print(f"wrote {document}")
    if status:
        print("run python -m amu_fast.bench.readme")
    return status


if __name__ == "__main__":
    sys.exit(main())
