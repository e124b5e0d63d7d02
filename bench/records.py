"""Records: one line of a CSV file per contender and run, with everything that is needed to judge it.

A file is replaced as a whole by its old content and the new lines, so it is never half-written.
"""

from __future__ import annotations

import csv
import io
import json
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from amu_fast.report.provenance import Provenance, _version
from amu_fast.report.writing import write_atomic

#: Packages whose versions decide a peer's time.
PEERS = (
    "cvxpylayers", "cvxpy", "diffcp", "scs", "qpth", "jax", "jaxlib", "jaxopt", "linear_operator", "xitorch", "pyDVL",
    "torchopt",
)  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One contender in one run of one case.

    Attributes:
        outcome: "ok"; "did not reach" (the accuracy; in P5 also within ten times our time); "out of time" (to get
            ready, whatever its accuracy); "not installed", "not built", "skipped", "failed".
        error: as the case defines it; tolerance: the largest that passes.
        seconds: median of a call; p20, p80: its spread; samples: calls.
        units: problems, systems or products per call; unit: what one is.
        ratio: this contender's time per unit over ours.
        limit: seconds per unit of the limit: max(bytes / read rate, flops / matrix rate).
        share: limit / seconds per unit.
        read, gemm: measured rates, bytes and flops per second.
        provenance: JSON.
    """

    run: str
    family: str
    case: str
    device: str
    contender: str
    computes: str
    dtype: str
    ours: bool
    outcome: str
    error: float
    tolerance: float
    seconds: float
    p20: float
    p80: float
    samples: int
    units: int
    unit: str
    ratio: float
    bytes: float
    flops: float
    read: float
    gemm: float
    limit: float
    share: float
    notes: str
    provenance: str

    @property
    def per_unit(self) -> float:
        """Seconds per problem, system or product."""
        return self.seconds / self.units


def run_number() -> str:
    """When a run started, UTC."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


def machine(device: torch.device, implementations: Mapping[str, str]) -> str:
    """Versions, commit, processor, threads, clock, device and what served our operators, as JSON."""
    collected = Provenance.collect("bench")
    facts: dict[str, Any] = {
        "versions": {**collected.versions, **{name: v for name in PEERS if (v := _version(name)) is not None}},
        "commit": collected.commit,
        "platform": collected.platform,
        "processor": _processor(),
        "threads": collected.threads,
        "clock_mhz": _clock(),
        "operators": dict(implementations),
    }
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        facts["gpu"] = {"name": found.name, "memory": found.total_memory, "cuda": torch.version.cuda}
    return json.dumps(facts, sort_keys=True)


def append(path: Path, records: Iterable[Record]) -> None:
    """Add lines; a file whose columns are others is kept beside the new one."""
    names = [f.name for f in fields(Record)]
    old = path.read_text() if path.is_file() else ""
    if old and old.splitlines()[0] != ",".join(names):
        write_atomic(path.with_suffix(".old.csv"), old.encode())
        old = ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    if not old:
        writer.writeheader()
    writer.writerows(_line(record) for record in records)
    write_atomic(path, (old + buffer.getvalue()).encode())


def load(path: Path) -> list[Record]:
    """All lines of a file, oldest first; none if there is no file."""
    if not path.is_file():
        return []
    kinds = {f.name: f.type for f in fields(Record)}
    read = {"str": str, "int": int, "float": float, "bool": lambda text: text == "True"}
    with path.open(newline="") as file:
        return [Record(**{k: read[str(kinds[k])](v) for k, v in line.items()}) for line in csv.DictReader(file)]  # type: ignore[operator]


def latest(records: Iterable[Record]) -> list[Record]:
    """Of each case and device, the lines of its last run, in the order of their cases' first appearance."""
    last: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        key = (record.family, record.case, record.device)
        if key not in last or last[key][0].run != record.run:
            last[key] = []
        last[key].append(record)
    return [record for lines in last.values() for record in lines]


def _line(record: Record) -> dict[str, str]:
    return {k: f"{v:.5g}" if isinstance(v, float) else str(v) for k, v in asdict(record).items()}


def _processor() -> str:
    """The model's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _clock() -> float | None:
    """Mean MHz of the cores now, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    values = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    return round(sum(values) / len(values), 1) if values else None
