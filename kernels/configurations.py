"""The table of tile shapes: (kernel, compute capability, dtype, columns) -> configuration; no tuning at run time.

A timing at run time would let two ranks choose differently and round differently. A row serves every width up to its
own; a kernel without a row of its own capability takes that of the newest one below, a dtype without one float32's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

#: Raised whenever a row changes: results may then differ in their last bits.
VERSION = 1

#: Wider rows do not fit one tile: their columns are taken in blocks.
WIDEST = 4096

# What a machine without a device compiles for and interprets: the architecture served first.
_DEFAULT_CAPABILITY = 90


@dataclass(frozen=True)
class Configuration:
    """How one kernel cuts its work.

    Attributes:
        rows: rows of a tile.
        warps: warps of a program.
        stages: tiles in flight per program, 1: no asynchronous copies.
        programs: programs that all problems share; each writes one partial sum.
    """

    rows: int
    warps: int
    stages: int = 1
    programs: int = 1


# (kernel, capability, dtype) -> widest row of the entry -> configuration. Programs are so many per multiprocessor (132
# on sm_90, 108 on sm_80) as registers let reside there, each with two tiles in flight.
_TABLE: dict[tuple[str, int, str], dict[int, Configuration]] = {
    ("glm_hvp", 90, "float32"): {
        16: Configuration(256, 8, 3, 396),
        64: Configuration(128, 8, 3, 396),
        256: Configuration(16, 8, 3, 396),
        1024: Configuration(4, 8, 3, 396),
        4096: Configuration(2, 16, 3, 264),
    },
    ("glm_hvp", 80, "float32"): {
        16: Configuration(256, 8, 3, 324),
        64: Configuration(64, 4, 3, 324),
        256: Configuration(16, 8, 3, 324),
        1024: Configuration(4, 8, 3, 324),
        4096: Configuration(2, 16, 3, 216),
    },
    ("glm_gradient_curvature", 90, "float32"): {
        16: Configuration(256, 8, 3, 396),
        64: Configuration(64, 4, 3, 396),
        256: Configuration(16, 8, 3, 264),
        1024: Configuration(4, 4, 3, 396),
        4096: Configuration(2, 16, 3, 132),
    },
    ("glm_gradient_curvature", 80, "float32"): {
        16: Configuration(256, 8, 3, 324),
        64: Configuration(64, 4, 3, 324),
        256: Configuration(16, 8, 3, 216),
        1024: Configuration(4, 4, 3, 324),
        4096: Configuration(2, 16, 3, 108),
    },
    ("glm_hvp_multi", 90, "float32"): {
        16: Configuration(128, 4, 3, 396),
        64: Configuration(32, 4, 3, 396),
        256: Configuration(8, 4, 3, 264),
        1024: Configuration(2, 8, 3, 132),
    },
    ("glm_hvp_multi", 80, "float32"): {
        16: Configuration(128, 4, 3, 324),
        64: Configuration(32, 4, 3, 324),
        256: Configuration(8, 4, 3, 216),
        1024: Configuration(2, 8, 3, 108),
    },
    ("glm_hvp", 80, "bfloat16"): {
        16: Configuration(256, 8, 3, 324),
        64: Configuration(64, 4, 3, 324),
        256: Configuration(16, 4, 3, 324),
        1024: Configuration(4, 8, 3, 324),
        4096: Configuration(2, 16, 3, 216),
    },
    ("glm_gradient_curvature", 90, "bfloat16"): {
        16: Configuration(256, 8, 3, 264),
        64: Configuration(64, 4, 3, 396),
        256: Configuration(16, 8, 3, 264),
        1024: Configuration(4, 4, 3, 396),
        4096: Configuration(2, 16, 3, 132),
    },
    ("glm_gradient_curvature", 80, "bfloat16"): {
        16: Configuration(256, 8, 3, 216),
        64: Configuration(64, 4, 3, 324),
        256: Configuration(16, 8, 3, 216),
        1024: Configuration(4, 4, 3, 324),
        4096: Configuration(2, 16, 3, 108),
    },
    ("glm_hvp_multi", 90, "bfloat16"): {
        16: Configuration(128, 4, 3, 264),
        64: Configuration(32, 4, 3, 264),
        256: Configuration(8, 4, 3, 264),
        1024: Configuration(2, 8, 3, 132),
    },
    ("glm_hvp_multi", 80, "bfloat16"): {
        16: Configuration(128, 4, 3, 216),
        64: Configuration(32, 4, 3, 216),
        256: Configuration(8, 4, 3, 216),
        1024: Configuration(2, 8, 3, 108),
    },
    # Tiles of the two products for many right-hand sides: 64 rows by 32 columns of x.
    ("glm_hvp_multi_dot", 80, "float32"): {WIDEST: Configuration(64, 8, 3, 216)},
    ("glm_hvp_multi_dot", 90, "float32"): {WIDEST: Configuration(64, 8, 3, 396)},
    ("margins", 80, "float32"): {1024: Configuration(8, 8, 3)},
    ("glm_mixed_vjp", 80, "float32"): {
        16: Configuration(128, 4),
        64: Configuration(64, 8),
        256: Configuration(8, 8),
        1024: Configuration(4, 8, 2),
    },
    ("score_moments", 80, "float32"): {
        16: Configuration(128, 4),
        64: Configuration(16, 4),
        256: Configuration(8, 4),
        1024: Configuration(2, 4),
        4096: Configuration(1, 8, 2),
    },
    # A tile of the vectors' kernels is one row of so many entries.
    ("vectors", 80, "float32"): {2048: Configuration(1, 8, 1, 1024)},
}


def capability_of(tensor: Tensor) -> int:
    """Compute capability of the tensor's device, 90 for 9.0; the default where it has none."""
    if tensor.device.type != "cuda":
        return _DEFAULT_CAPABILITY
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def configuration(kernel: str, tensor: Tensor, width: int) -> Configuration:
    """Return the row for tiles of `width` columns of `tensor`'s dtype on its device."""
    return look_up(kernel, capability_of(tensor), str(tensor.dtype).removeprefix("torch."), width)


def look_up(kernel: str, capability: int, dtype: str, width: int) -> Configuration:
    """Return the row of the newest capability at or below `capability`.

    Raises:
        KeyError: no row serves it: the capability is below 80, or the tile wider than the widest row.
    """
    served = [c for (name, c, _) in _TABLE if name == kernel and c <= capability]
    if not served:
        raise KeyError(f"{kernel} has no configuration for compute capability {capability / 10}; 8.0 is the oldest")
    rows = _TABLE.get((kernel, max(served), dtype)) or _TABLE[kernel, max(served), "float32"]
    fitting = [limit for limit in rows if width <= limit]
    if not fitting:
        raise KeyError(f"{kernel} has no configuration for {width} columns; the widest tile has {max(rows)}")
    return rows[min(fitting)]


def entries() -> list[tuple[str, int, str, int, Configuration]]:
    """Every row of the table: kernel, capability, dtype, widest row, configuration."""
    return [(*key, width, row) for key, rows in _TABLE.items() for width, row in rows.items()]


def tile_width(columns: int, widest: int = WIDEST) -> int:
    """Columns of a tile: a power of two, at least 16."""
    return min(triton.next_power_of_2(max(columns, 16)), widest)


def cut(units: int, unit: int, problems: int, programs: int) -> tuple[int, int]:
    """Cut `units` rows into equal parts of whole tiles of `unit` rows: (parts per problem, tiles per part)."""
    tiles = triton.cdiv(units, unit)
    per_part = triton.cdiv(tiles, max(1, programs // problems))
    return triton.cdiv(tiles, per_part), per_part
