"""How long `import amu_fast.unlearn` takes beside `import torch` alone; the limit is 1.5 times.

Each run is a fresh interpreter that times one import; the two statements alternate, after a discarded first pair
that fills the file cache. The ratio is of medians.

    python -m amu_fast.bench.import_time [--runs N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

MODULES = ("torch", "amu_fast.unlearn")
LIMIT = 1.5
_TIMED = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def seconds(module: str) -> float:
    """Seconds that importing `module` takes in a fresh interpreter."""
    command = [sys.executable, "-c", _TIMED.format(module)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(runs: int) -> dict[str, list[float]]:
    """Return module -> seconds of `runs` interleaved imports."""
    for module in MODULES:
        seconds(module)
    times: dict[str, list[float]] = {module: [] for module in MODULES}
    for _ in range(runs):
        for module in MODULES:
            times[module].append(seconds(module))
    return times


def main() -> int:
    """Print medians with their 20th and 80th percentiles and the ratio; return 1 if it is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9, help="imports of each module (default: 9)")
    times = measure(parser.parse_args().runs)
    for module, values in times.items():
        low, *_, high = statistics.quantiles(values, n=5, method="inclusive")
        print(f"import {module:<18} {statistics.median(values):.3f} s  (p20 {low:.3f}, p80 {high:.3f})")
    ratio = statistics.median(times["amu_fast.unlearn"]) / statistics.median(times["torch"])
    print(f"ratio {ratio:.2f}  (limit {LIMIT})")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
