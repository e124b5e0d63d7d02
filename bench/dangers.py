"""`python -m amu_fast.bench.dangers`: every danger scenario, with the audits that should see it.

At most 10 minutes on one core (--quick: 4). Writes dangers.json and dangers.md into --out; `--document` renews
docs/dangers.md from a record, `--check` only compares.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from amu_fast.audit.intervals import Interval
from amu_fast.errors import AmuFastError
from amu_fast.experiments.dangers.suite import PLAN, QUICK, Case, Plan, run_all
from amu_fast.experiments.records import read, save
from amu_fast.report.provenance import Provenance, plain
from amu_fast.report.writing import write_atomic

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "bench" / "results" / "dangers" / "dangers.json"
DOCUMENT = ROOT / "docs" / "dangers.md"
BEGIN, END = "<!-- dangers:begin -->\n", "<!-- dangers:end -->\n"


@dataclass(frozen=True)
class DangersRecord:
    """One run of all scenarios.

    Attributes:
        plan: Its configuration.
        data_digest: Of the population.
        cases: In order.
        seconds: Wall time.
        provenance: Code and machine.
    """

    SCHEMA: ClassVar[str] = "amu-fast-dangers/1"

    plan: Mapping[str, Any]
    data_digest: str
    cases: tuple[Case, ...]
    seconds: float
    provenance: Provenance


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit status is 1 if a case did not come out as expected, 2 if data or records are unusable."""
    options = _parser().parse_args(arguments)
    try:
        if options.document or options.check:
            return _document(check=options.check)
        return _run(QUICK if options.quick else PLAN, options.out, options.data_dir)
    except AmuFastError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m amu_fast.bench.dangers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smaller task, on mnist-5k, which needs no files")
    parser.add_argument("--out", type=Path, default=Path("out/dangers"), help="folder of record and table")
    parser.add_argument("--data-dir", type=Path, help="where the Fashion-MNIST IDX files are")
    parser.add_argument("--document", action="store_true", help=f"only renew {DOCUMENT.name} from {RECORD.name}")
    parser.add_argument("--check", action="store_true", help="only compare the document with the record")
    return parser


def _run(plan: Plan, out: Path, data_dir: Path | None) -> int:
    torch.set_num_threads(1)
    began = time.perf_counter()
    population = plan.task.population(data_dir)

    def notify(text: str) -> None:
        print(f"{time.perf_counter() - began:6.0f} s  {text}", file=sys.stderr)

    cases = tuple(run_all(plan, population, notify))
    record = DangersRecord(
        plan=plain(plan),
        data_digest=population.digest,
        cases=cases,
        seconds=time.perf_counter() - began,
        provenance=Provenance.collect(plan),
    )
    save(out / "dangers.json", record)
    write_atomic(out / "dangers.md", table(record).encode())
    print(table(record))
    return int(any(case.as_expected is False for case in cases))


def table(record: DangersRecord) -> str:
    """The record as Markdown."""
    rows = ["| case | audit | figures | warnings | as expected |", "| --- | --- | --- | --- | --- |"]
    for case in record.cases:
        figures = ", ".join(f"{name.replace('_', ' ')} {_shown(case, name)}" for name in case.shown)
        verdict = {True: "yes", False: "**no**", None: "–"}[case.as_expected]
        codes = ", ".join(_counted(case.report.codes)) or "none"
        rows.append(f"| {case.name} | {case.report.name} | {figures} | {codes} | {verdict} |")
    task, found = record.plan["task"], record.provenance
    commit = found.commit or "unknown"
    commit = commit[:12] + ("+changes" if "+" in commit else "")
    caption = (
        f"Data {task['data']}, seed {record.plan['seed']}, {record.seconds:.0f} s, one thread; commit {commit}, torch "
        f"{found.versions['torch']}. Brackets: 95 % intervals over rows, which speak for these models only."
    )
    return "\n".join([*rows, "", caption, ""])


def _counted(codes: Sequence[str]) -> list[str]:
    """Each code once, with how often it was given."""
    return [code if codes.count(code) == 1 else f"{code} × {codes.count(code)}" for code in dict.fromkeys(codes)]


def _shown(case: Case, name: str) -> str:
    value: Interval | float = case.report.intervals.get(name, case.report.figures.get(name, float("nan")))
    if isinstance(value, Interval):
        return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) >= 2 else f"{value:.3g}"


def rendered(text: str, record: DangersRecord) -> str:
    """The document with its generated block renewed."""
    head, rest = text.split(BEGIN)
    return head + BEGIN + table(record) + END + rest.split(END)[1]


def _document(*, check: bool) -> int:
    record, text = read(RECORD, DangersRecord), DOCUMENT.read_text()
    new = rendered(text, record)
    if check:
        print(f"{DOCUMENT.name}: {'up to date' if new == text else 'out of date'}")
        return int(new != text)
    write_atomic(DOCUMENT, new.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
