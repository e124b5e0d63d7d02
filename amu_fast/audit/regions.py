"""Where an interval lies relative to a margin: inside, wholly outside, or too wide ever to lie inside."""

from __future__ import annotations

import math
from typing import Any, Literal

from amu_fast.audit.intervals import TOST_LEVEL, Interval, normal_quantile

Side = Literal["both", "at_least", "at_most"]
"""Of a margin m: "both" is -m < x < m, "at_least" x > -m, "at_most" x < m."""

POWER = 0.8


def inside(interval: Interval, margin: float, side: Side) -> bool:
    """Whether the whole interval lies strictly within the margin."""
    above_floor = side == "at_most" or -margin < interval.low
    return above_floor and (side == "at_least" or interval.high < margin)


def outside(interval: Interval, margin: float, side: Side) -> bool:
    """Whether the whole interval lies beyond the margin."""
    below = side != "at_most" and interval.high < -margin
    return below or (side != "at_least" and interval.low > margin)


def too_wide(interval: Interval, margin: float, side: Side) -> bool:
    """Whether a true difference of 0 would pass with less than 80 % power (S7), from the width of a 90 % interval.

    (z_.95 + z_.90) SE > margin for two sides, (z_.95 + z_.80) SE > margin for one; SE = width/(2 z_.95).
    """
    z = normal_quantile(TOST_LEVEL)
    error = (interval.high - interval.low) / (2.0 * z)
    beta = normal_quantile(POWER) if side == "both" else normal_quantile(2.0 * POWER - 1.0)
    return (z + beta) * error > margin


def plain(interval: Interval | None) -> dict[str, Any] | None:
    """For JSON; a number that is none becomes null."""
    if interval is None:
        return None
    ends = {name: getattr(interval, name) for name in ("value", "low", "high")}
    return {
        **{name: value if math.isfinite(value) else None for name, value in ends.items()},
        "level": interval.level,
        "scope": interval.scope,
        "method": interval.method,
        "sizes": list(interval.sizes),
        "note": interval.note,
    }
