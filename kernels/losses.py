"""The follower's losses as functions of the margin: l, l', l''; game.md section 3, kinds as in the operators' schema.

A NaN margin stays NaN in l and l': selections and not maxima, which drop it.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOGISTIC = tl.constexpr(0)
SQUARED_HINGE = tl.constexpr(1)


@triton.jit
def _log1p(e):
    """log(1 + e) for 0 <= e <= 1 without the rounding of 1 + e (Kahan's correction)."""
    u = 1.0 + e
    return tl.where(u == 1.0, e, tl.log(u) * (e / (u - 1.0)))


@triton.jit
def _slack(m):
    return tl.where(m > 1.0, 0.0, 1.0 - m)


@triton.jit
def loss(m, width, KIND: tl.constexpr):
    """l(m)."""
    if KIND == LOGISTIC:
        value = tl.where(m > 0.0, 0.0, -m) + _log1p(tl.exp(-tl.abs(m)))
    else:
        slack = _slack(m)
        if KIND == SQUARED_HINGE:
            value = slack * slack
        else:
            value = tl.where(slack < width, slack * slack / (2.0 * width), slack - 0.5 * width)
    return value


@triton.jit
def slope(m, width, KIND: tl.constexpr):
    """l'(m)."""
    if KIND == LOGISTIC:
        e = tl.exp(-tl.abs(m))
        value = -tl.where(m > 0.0, e, 1.0) / (1.0 + e)
    else:
        slack = _slack(m)
        value = -2.0 * slack if KIND == SQUARED_HINGE else -tl.where(slack > width, 1.0, slack / width)
    return value


@triton.jit
def curvature(m, width, KIND: tl.constexpr):
    """l''(m); 0 at the kinks."""
    if KIND == LOGISTIC:
        e = tl.exp(-tl.abs(m))
        value = e / ((1.0 + e) * (1.0 + e))
    else:
        # 1 - m and not m - (1 - width): the region's ends must be those of `slope`.
        slack = 1.0 - m
        if KIND == SQUARED_HINGE:
            value = tl.where(m < 1.0, 2.0, 0.0)
        else:
            value = tl.where((slack > 0.0) & (slack < width), 1.0 / width, 0.0)
    return value
