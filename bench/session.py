"""A run of several cases: records are appended after each, and one that fails does not stop the others."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from amu_fast.bench import cases, records, roofline, runner
from amu_fast.bench.cases import Case


@dataclass(frozen=True)
class Session:
    """Where and how a run's cases are run.

    Attributes:
        out: folder of the records.
        device: where.
        smoke: tiny sizes; nothing is compiled, whose time would be all that is seen.
        minutes: after which no further case is started.
    """

    out: Path
    device: torch.device
    smoke: bool = False
    minutes: float = 1e9

    @property
    def cases(self) -> tuple[Case, ...]:
        """What this device runs."""
        return cases.SMOKE if self.smoke else cases.GPU if self.device.type == "cuda" else cases.CPU

    def run(self, chosen: Sequence[Case]) -> int:
        """Run cases in order; returns how many failed, were left out or missed the accuracy themselves."""
        sizes = roofline.SMOKE if self.smoke else roofline.GPU if self.device.type == "cuda" else roofline.CPU
        number, started, missing = records.run_number(), time.monotonic(), 0
        for case in chosen:
            label, passed = f"{cases.family(case)} {case.name}", time.monotonic() - started
            if passed > 60 * self.minutes:
                print(f"left out for lack of time: {label}", file=sys.stderr)
                missing += 1
                continue
            print(f"{passed:6.0f} s  {label}", file=sys.stderr, flush=True)
            try:
                with self._stance():
                    lines = runner.run(case, self.device, sizes, number)
                records.append(self.out / f"{cases.family(case).lower()}.csv", lines)
                missing += sum(line.ours and line.outcome in ("failed", "did not reach") for line in lines)
            except Exception:
                traceback.print_exc()
                missing += 1
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return missing

    def _stance(self) -> AbstractContextManager[object]:
        return torch.compiler.set_stance("force_eager") if self.smoke else nullcontext()
