"""The p-value of any statistic, trained pipelines too: who is a member is drawn anew, the rest repeated (S3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from amu_fast.audit.metrics import Array

MIN_DRAWS = 999
TIE = 1e-12
"""Null values within this share of the observed one count as equal: sums in another order differ in the last bits."""


@dataclass(frozen=True, eq=False)
class PermutationTest:
    """A statistic beside its values when membership is drawn at random.

    Attributes:
        value: on the given sides.
        p: one-sided p-value, (1 + #{null >= value})/(draws + 1).
        null: (draws,) values under permuted membership.
    """

    value: float
    p: float
    null: Array

    @property
    def excess(self) -> float:
        """Value minus the mean of the null; a statistic biased at the null is near 0 only so (S10)."""
        return self.value - float(self.null.mean())


def permutation_test(
    statistic: Callable[[Array, Array], float],
    members: Any,
    nonmembers: Any,
    draws: int = MIN_DRAWS,
    clusters: tuple[Any, Any] | None = None,
    seed: int = 0,
) -> PermutationTest:
    """One-sided p of `statistic(members, nonmembers)` against random membership with the sides' sizes kept.

    The whole pipeline belongs inside `statistic`: fits, folds, choice of direction. With clusters whole persons change
    sides, as many as were members; a pipeline that folds by person gets the ids as a column of its rows. Attacks that
    take score arrays are pipelines too: `lambda a, b: PaperAttack().run((a, b)).auc.value`.

    Args:
        statistic: of (m, ...) member and (n, ...) non-member rows; larger = more revealed.
        members: rows (m,) or (m, d).
        nonmembers: rows (n,) or (n, d).
        draws: random permutations, >= 999.
        clusters: person of each member row (m,) and non-member row (n,); nobody is on both sides (S4).
        seed: seed of the draws.

    >>> difference = lambda a, b: float(a.mean() - b.mean())
    >>> permutation_test(difference, [10.0, 11.0, 12.0, 13.0, 14.0, 15.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).p < 0.01
    True
    """
    if draws < MIN_DRAWS:
        raise DataError(f"draws must be >= {MIN_DRAWS} (S3), got {draws}")
    first, second = np.asarray(members), np.asarray(nonmembers)
    if min(len(first), len(second)) < 1 or first.shape[1:] != second.shape[1:]:
        raise DataError(f"both sides need rows of one shape, got {first.shape} and {second.shape}")
    unit = _units(len(first), len(second), clusters)
    rows, chosen = np.concatenate([first, second]), int(unit[: len(first)].max()) + 1
    rng, null = np.random.default_rng(seed), np.empty(draws)
    for draw in range(draws):
        member = (rng.permutation(int(unit.max()) + 1) < chosen)[unit]
        null[draw] = statistic(rows[member], rows[~member])
    value = float(statistic(first, second))
    if not np.isfinite(value) or not np.isfinite(null).all():
        raise DataError(f"the statistic must be finite, got {value} and {np.sum(~np.isfinite(null))} bad null values")
    reached = null >= value - TIE * abs(value)
    return PermutationTest(value, float((1 + reached.sum()) / (1 + draws)), null)


def _units(m: int, n: int, clusters: tuple[Any, Any] | None) -> NDArray[np.int64]:
    """(m + n,) number of each row's unit, those of the members first."""
    if clusters is None:
        return np.arange(m + n)
    first, second = (np.asarray(ids) for ids in clusters)
    if (len(first), len(second)) != (m, n):
        raise DataError(f"clusters must name one person per row, {(m, n)}, got {(len(first), len(second))}")
    shared = np.intersect1d(first, second)
    if len(shared):
        raise DataError(
            f"{len(shared)} persons have rows on both sides, among them {shared[0]!r}; membership of whole persons "
            "cannot be permuted then: keep their rows on one side"
        )
    names, inside = np.unique(first, return_inverse=True)
    return np.concatenate([inside, len(names) + np.unique(second, return_inverse=True)[1]])
