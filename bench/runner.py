"""One case from its data to its records: prepare, gate, time what passed, compare with the limit."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import torch

from amu_fast.bench import p1, p2, p3, p4, p5, records, roofline
from amu_fast.bench.cases import Case, SolveCase, family
from amu_fast.bench.contender import Call, Contender, NotAvailable, Verdict
from amu_fast.bench.records import Record
from amu_fast.bench.timing import OutOfTime, Times, clock_of, interleave, limited, wall_clock

FAMILIES: dict[str, ModuleType] = {"P1": p1, "P2": p2, "P3": p3, "P4": p4, "P5": p5}
OPERATORS = {"P1": "auditor_step", "P3": "spd_solve", "P4": "_cg_update", "P5": "glm_hvp"}
#: A peer of P5 is stopped at this many times our time.
STOP = 10.0
#: Noise of the ceilings, or data that a cache holds: such a share is no result.
PASSED_LIMIT = "share above 1: the measured ceiling is too low"
NAN = math.nan
UNJUDGED = Verdict(NAN, NAN)


@dataclass
class Entry:
    """What is known of a contender so far."""

    contender: Contender
    outcome: str
    call: Call | None = None
    verdict: Verdict = UNJUDGED
    notes: str = ""
    times: Times | None = None


def run(case: Case, device: torch.device, sizes: roofline.Sizes, number: str | None = None) -> list[Record]:
    """Run one case.

    Args:
        case: what to run.
        device: where.
        sizes: of the operations that measure the ceilings.
        number: of the run, for the records; None: now.

    Returns:
        One record per contender, whatever its outcome.
    """
    module = FAMILIES[family(case)]
    problem = module.build(case, device)
    torch.compiler.reset()
    entries = _admit(module, problem, case)
    ceilings = module.ceilings(problem, sizes)
    ready = {e.contender.name: e for e in entries if e.outcome == "ok" and e.call is not None}
    calls = {name: _required(entry.call) for name, entry in ready.items()}
    calls |= {f"ceiling {name}": call for name, (call, _) in ceilings.items()}
    shares = {name: entry.contender.share for name, entry in ready.items()}
    for name in ceilings:
        shares[f"ceiling {name}"] = 0.3
        calls[f"ceiling {name}"](0)
    times = interleave(calls, case.seconds, clock_of(device), shares)
    for name, entry in ready.items():
        entry.times = times[name]
    rates = {name: amount / times[f"ceiling {name}"].median for name, (_, amount) in ceilings.items()}
    return _records(case, module, problem, entries, rates, number or records.run_number())


def _admit(module: ModuleType, problem: Any, case: Case) -> list[Entry]:
    """Prepare and judge every contender; ours first, because its time may stop the others."""
    entries: list[Entry] = []
    patience = module.PATIENCE
    for contender in module.contenders(case):
        entry = _judged(contender, module, problem, patience)
        if contender.ours and entry.call is not None and isinstance(case, SolveCase):
            patience = min(module.PATIENCE, STOP * min(wall_clock(partial(entry.call, number)) for number in (1, 2)))
        entries.append(entry)
        print(f"  {contender.name}: {entry.outcome}, error {entry.verdict.error:.2g} {entry.notes}", file=sys.stderr)
    return entries


def _judged(contender: Contender, module: ModuleType, problem: Any, patience: float) -> Entry:
    """A contender's outcome; whatever it raises is recorded and does not stop the others."""
    try:
        with limited(module.PATIENCE):
            call = contender.prepare(problem)
        with limited(patience):
            verdict = module.check(problem, call)
        passed = verdict.passed or not contender.gated
        if passed:
            with limited(module.PATIENCE):
                call(0)
    except NotAvailable as error:
        return Entry(contender, error.outcome, notes=str(error))
    except ImportError as error:
        # Of a peer that imports its package when it is called.
        return Entry(contender, "not installed", notes=str(error))
    except OutOfTime as error:
        # Says nothing about its accuracy, except where the case itself bounds the time in which to reach it.
        outcome = "did not reach" if patience < module.PATIENCE else "out of time"
        return Entry(contender, outcome, notes=str(error))
    except Exception as error:
        return Entry(contender, "failed", notes=f"{type(error).__name__}: {error}"[:300])
    return Entry(contender, "ok" if passed else "did not reach", call if passed else None, verdict, verdict.notes)


def _records(
    case: Case, module: ModuleType, problem: Any, entries: list[Entry], rates: dict[str, float], number: str
) -> list[Record]:
    device = _device(problem)
    limit, (whole, unit) = module.limit(problem), module.units(problem)
    reads = [rate for name, rate in rates.items() if name.startswith("read ")]
    read, gemm = rates["copy"] if "copy" in rates else max(reads), rates[f"gemm {limit.dtype}"]
    least = max(limit.bytes / read, limit.flops / gemm) / whole
    name = family(case)
    operator = getattr(case, "operator", None) or OPERATORS[name]
    provenance = records.machine(device, {operator: p2.implementation(operator, device.type)})
    blank = Record(
        run=number, family=name, case=case.name, device=device.type, contender="", computes="", dtype="", ours=False,
        outcome="", error=NAN, tolerance=NAN, seconds=NAN, p20=NAN, p80=NAN, samples=0, units=whole, unit=unit,
        ratio=NAN, bytes=limit.bytes / whole, flops=limit.flops / whole, read=read, gemm=gemm, limit=least, share=NAN,
        notes="", provenance=provenance,
    )  # fmt: skip
    lines = [_line(blank, entry) for entry in entries]
    base = next((line.per_unit for line in lines if line.ours), NAN)
    return [_compared(line, base, least) for line in lines]


def _compared(line: Record, base: float, least: float) -> Record:
    """With its ratio to ours and its share of the limit; a share above 1 says that the limit is not one."""
    share = least / line.per_unit
    doubt = [PASSED_LIMIT] if share > 1 else []
    return replace(
        line, ratio=line.per_unit / base, share=share, notes="; ".join([*filter(None, [line.notes]), *doubt])
    )


def _line(blank: Record, entry: Entry) -> Record:
    contender, verdict, times = entry.contender, entry.verdict, entry.times
    notes = "; ".join(part for part in (contender.notes, entry.notes) if part)
    line = replace(
        blank, contender=contender.name, computes=contender.computes, dtype=contender.dtype, ours=contender.ours,
        outcome=entry.outcome, error=verdict.error, tolerance=verdict.tolerance, notes=notes,
        units=blank.units if verdict.units == 1 else verdict.units,
    )  # fmt: skip
    if times is None:
        return line
    return replace(line, seconds=times.median, p20=times.p20, p80=times.p80, samples=times.samples)


def _device(problem: Any) -> torch.device:
    return (
        problem.device
        if hasattr(problem, "device")
        else (problem.x if hasattr(problem, "x") else problem.matrix).device
    )


def _required(call: Call | None) -> Call:
    assert call is not None
    return call
