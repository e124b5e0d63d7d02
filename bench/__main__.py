"""`python -m amu_fast.bench`: the benchmarks.

cpu [--out bench/results] [--minutes 18]   every case on this machine's CPU, then the figures
gpu --out DIR                              everything a GPU can show: its tests, every case, the figures
case NAME ...                              single cases, or whole families: p1 p2 p3 p4 p5
plots --out DIR                            the figures again, from the records
readme [--check]                           the README's and docs/performance.md's tables, from bench/results
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from amu_fast.bench import cases, gpu, plots, readme
from amu_fast.bench.session import Session


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 1 if anything did not end well."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["readme"]:
        sys.argv[1:] = given[1:]
        return readme.main()
    options = _parser().parse_args(given)
    if options.command == "plots":
        print("\n".join(map(str, plots.draw_all(options.out))))
        return 0
    if options.command == "gpu":
        return int(gpu.run(options.out, options.device, options.smoke, options.again) > 0)
    # Peers warn about their own future.
    warnings.simplefilter("ignore")
    session = Session(options.out, torch.device(options.device), options.smoke, options.minutes)
    if options.command == "cpu":
        missing = session.run(session.cases)
        plots.draw_all(options.out)
        return int(missing > 0)
    chosen = [c for c in session.cases if {c.name, cases.family(c).lower()} & set(options.names)]
    if not chosen:
        names = ", ".join(dict.fromkeys(c.name for c in session.cases))
        raise SystemExit(f"no case is called {' or '.join(options.names)}; there are p1, p2, p3, p4, p5, {names}")
    return int(session.run(chosen) > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m amu_fast.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--smoke", action="store_true", help="tiny sizes, to try the plumbing")
    common.add_argument("--minutes", type=float, default=18.0, help="no case is started later (default: 18)")
    places = {"cpu": Path("bench/results"), "case": Path("out/bench"), "plots": Path("bench/results")}
    for name, place in places.items():
        command = commands.add_parser(name, parents=[common])
        command.add_argument("--out", type=Path, default=place, help=f"folder of the records (default: {place})")
        command.add_argument("--device", default="cpu", help="torch device (default: cpu)")
        if name == "case":
            command.add_argument("names", nargs="+", help="cases or families")
    command = commands.add_parser("gpu", parents=[common])
    command.add_argument("--out", type=Path, required=True, help="folder of records, logs and figures")
    command.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    command.add_argument("--again", action="store_true", help="repeat steps that ended well before, too")
    commands.add_parser("readme", help="see python -m amu_fast.bench.readme --help")
    return parser


if __name__ == "__main__":
    sys.exit(main())
