"""Intervals as a certificate records them."""

from __future__ import annotations

import math
from typing import Any

from amu_fast.certificate.document import Estimate
from amu_fast.certificate.records import Unknown


def estimate_of(interval: Any) -> Estimate:
    """From an `Interval`, or an object with its attributes; numbers that are none become unknown."""
    return Estimate(
        value=number(interval.value),
        low=number(interval.low),
        high=number(interval.high),
        level=float(interval.level),
        scope=interval.scope,
        method=interval.method,
        sizes=tuple(interval.sizes),
        note=interval.note,
    )


def number(value: float | None) -> float | Unknown:
    """A finite number, or that there was none."""
    if value is None:
        return Unknown("there was no value")
    return float(value) if math.isfinite(value) else Unknown(f"the value was {value!r}")
