"""How many rows, members and units a claim needs; to plan by, never to judge by.

With z_p the normal quantile of p and power 1 - beta, tests at 5 % throughout (S2, S5, S7, S13).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from amu_fast.audit.intervals import normal_quantile
from amu_fast.errors import DataError

POWER = 0.8
MOST = 10_000_000
"""Searches stop here; what needs more is not going to be run."""


def auc_deviation(members: float, nonmembers: float, auc: float = 0.5) -> float:
    """Standard error of an AUC, for planning only (S3); `auc_interval` judges.

    Var = [A(1-A) + (m-1)(A/(2-A) - A^2) + (n-1)(2A^2/(1+A) - A^2)]/(mn), exponential scores; at A = .5 it is
    (m+n+1)/(12mn) for any continuous scores.

    Source: Hanley and McNeil, Radiology 143 (1982) 29-36.
    """
    _positive(members=members, nonmembers=nonmembers)
    if not 0.0 < auc < 1.0:
        raise DataError(f"auc must lie in (0, 1), got {auc}; at 0 or 1 the formula has no width")
    m, n, square = float(members), float(nonmembers), auc * auc
    first, second = auc / (2.0 - auc) - square, 2.0 * square / (1.0 + auc) - square
    return math.sqrt((auc * (1.0 - auc) + (m - 1.0) * first + (n - 1.0) * second) / (m * n))


def rows_for_equivalence(margin: float, truth: float = 0.0, power: float = POWER) -> int:
    """Rows a side at which two one-sided tests show |AUC - .5| < margin (S7): [(z_.95 + z)/(margin - |truth|)]^2/6.

    z = z_(1 - beta/2) for a true difference of 0, where both tests must pass, else z_(1 - beta).

    Args:
        margin: of the AUC, a fraction.
        truth: true difference, |truth| < margin.
        power: wanted.

    >>> rows_for_equivalence(0.05), rows_for_equivalence(0.05, truth=0.025)
    (571, 1649)
    """
    if not 0.0 <= abs(truth) < margin:
        raise DataError(f"the true difference must be smaller than the margin, got {truth} and {margin}")
    z = _z_sum(power, two_sided=truth == 0.0)
    return math.ceil((z / (margin - abs(truth))) ** 2 / 6.0)


def smallest_margin(members: int, nonmembers: float = math.inf, power: float = POWER) -> float:
    """Smallest margin that two one-sided tests attain at AUC .5 (S7): (z_.95 + z_(1-beta/2)) sqrt((1/m + 1/n)/12).

    >>> round(smallest_margin(500), 3)
    0.038
    """
    _positive(members=members, nonmembers=nonmembers)
    return _z_sum(power, two_sided=True) * math.sqrt((1.0 / members + 1.0 / nonmembers) / 12.0)


def members_for_rate(fpr: float, factor: float, power: float = POWER, *, always: bool = False) -> int:
    """Members needed to show TPR <= factor x FPR where the truth is TPR = FPR and the threshold is known (S5).

    The largest k with P(Bin(m, factor fpr) <= k) <= .05 still counts as shown, and P(Bin(m, fpr) <= k) >= power is
    asked for. As k is whole, the power saws: the smallest m that has it is followed by larger ones that do not.

    Args:
        fpr: false-positive rate.
        factor: > 1.
        power: wanted.
        always: the m from which on the power never falls below `power` again, 12 to 30 % more.

    >>> members_for_rate(0.05, 2), members_for_rate(0.05, 2, always=True)
    (179, 203)
    """
    if not (factor > 1.0 and fpr > 0.0 and factor * fpr < 1.0):
        raise DataError(f"factor must exceed 1 and factor x fpr lie below 1, got {factor} and {fpr}")
    import numpy as np
    from scipy.special import bdtr, bdtrik

    # 1.5 times the normal approximation is beyond the last dip, which lies 10 to 20 % above it.
    spread = math.sqrt(factor * fpr * (1 - factor * fpr)) * _z(0.95) + math.sqrt(fpr * (1 - fpr)) * _z(power)
    m = np.arange(1, math.ceil(1.5 * (spread / ((factor - 1.0) * fpr)) ** 2) + 20)
    k = np.floor(bdtrik(0.05, m, factor * fpr) + 1e-9)
    k = np.where((k >= 0) & (bdtr(np.maximum(k, 0), m, factor * fpr) <= 0.05), k, k - 1)
    reached = (k >= 0) & (bdtr(np.maximum(k, 0), m, fpr) >= power)
    return int(m[~reached].max()) + 1 if always else int(m[reached].min())


def t_power(effect: float, units: int) -> float:
    """Power of the two-sided paired t test at 5 % for a mean of `effect` deviations (S2): non-central t.

    >>> round(t_power(1.7, 5), 2)
    0.81
    """
    _enough(units)
    from scipy.special import nctdtr, stdtrit

    degrees, shift = units - 1, abs(effect) * math.sqrt(units)
    critical = float(stdtrit(degrees, 0.975))
    # The far tail on the wrong side is below 1e-9 for such shifts, where nctdtr has no value for it.
    wrong = float(nctdtr(degrees, shift, -critical)) if shift < 6.0 else 0.0
    return 1.0 - float(nctdtr(degrees, shift, critical)) + wrong


def effect_for(units: int, power: float = POWER) -> float:
    """Smallest mean, in deviations, that the paired t test finds with this power: 1.7 at 5 units, 1.2 at 8 (S2)."""
    _enough(units)
    from scipy.optimize import brentq

    high = 1.0
    while t_power(high, units) < power:  # the non-central t has no value far out, so its end is approached
        high *= 2.0
    return float(brentq(lambda effect: t_power(effect, units) - power, 0.0, high))


def units_for(effect: float, power: float = POWER) -> int:
    """Units at which the paired t test finds a mean of `effect` deviations with this power."""
    _positive(effect=abs(effect))
    return _smallest(lambda units: t_power(effect, units) >= power, "units")


def equivalence_power(margin: float, deviation: float, units: int) -> float:
    """Power of equivalence over units at a true difference of 0, for a deviation between units (S7, S13).

    The mean over the sample deviation s of P(|mean| < margin - t_{n-1,.95} s/sqrt(n)), where the mean and s are
    independent.

    Args:
        margin: in the units of the deviation.
        deviation: of one unit's difference.
        units: n >= 2.
    """
    _enough(units)
    _positive(margin=margin, deviation=deviation)
    from scipy.integrate import quad
    from scipy.special import gammaln, ndtr, stdtrit

    degrees, error = units - 1, deviation / math.sqrt(units)
    critical, ratio = float(stdtrit(degrees, 0.95)), margin / error
    constant = math.log(2.0) + 0.5 * degrees * math.log(degrees / 2.0) - float(gammaln(degrees / 2.0))

    def integrand(s: float) -> float:
        # Density of s/sigma, a scaled chi with n - 1 degrees of freedom.
        density = math.exp(constant + (degrees - 1) * math.log(s) - degrees * s * s / 2.0) if s > 0 else 0.0
        return density * (2.0 * float(ndtr(ratio - critical * s)) - 1.0)

    return float(quad(integrand, 0.0, ratio / critical, epsabs=1e-10)[0])


def units_for_equivalence(margin: float, deviation: float, power: float = POWER) -> int:
    """Units at which equivalence within the margin is shown with this power, for a true difference of 0."""
    return _smallest(lambda units: equivalence_power(margin, deviation, units) >= power, "units")


def _smallest(reached: Callable[[int], bool], what: str) -> int:
    """Smallest n >= 2 for which a test has its power, which grows with n."""
    high = 2
    while not reached(high):
        high *= 2
        if high > MOST:
            raise DataError(f"more than {MOST} {what} would be needed; ask for a larger effect or margin")
    low = max(2, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle + 1, high)
    return low


def _z(probability: float) -> float:
    return normal_quantile(2.0 * probability - 1.0)


def _z_sum(power: float, two_sided: bool) -> float:
    if not 0.5 < power < 1.0:
        raise DataError(f"power must lie in (.5, 1), got {power}; 0.8 is usual")
    return _z(0.95) + _z((1.0 + power) / 2.0 if two_sided else power)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise DataError(f"{name} must be > 0, got {value}")


def _enough(units: int) -> None:
    if units < 2:
        raise DataError(f"a t test needs at least 2 units, got {units}")
