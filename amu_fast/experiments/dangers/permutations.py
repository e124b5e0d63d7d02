"""Two samples whose membership labels are permuted: matching by class, moments and cross-fitted scores for all at once.

Everything is a matrix product with the (B + 1, n) membership matrix, whose first row is the truth, so that a thousand
permutations cost about as much as ten.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amu_fast.audit.metrics import Array
from amu_fast.errors import DataError

MIN_ROWS = 10
"""Matched rows a side below which nothing is said."""


@dataclass(frozen=True, eq=False)
class MatchedSample:
    """As many forget as validation rows of every class, so that a different mix of classes is no finding.

    Attributes:
        rows: (n,) numbers into forget followed by validation rows.
        member: (n,) True for forget rows.
        strata: (n,) class and half; membership is permuted inside a stratum.
        half: (n,) 0 or 1: halves for cross-fitting.
    """

    rows: NDArray[np.int64]
    member: NDArray[np.bool_]
    strata: NDArray[np.int64]
    half: NDArray[np.int64]

    @staticmethod
    def of(forget: NDArray[np.int64], validation: NDArray[np.int64], seed: int = 0) -> MatchedSample:
        """Draw min(forget, validation) rows a side of each class.

        Args:
            forget: Classes of the forget rows.
            validation: Classes of the validation rows.
            seed: Of the draw.

        Raises:
            DataError: Fewer than 10 rows a side can be matched.
        """
        rng = np.random.default_rng(seed)
        rows: list[int] = []
        member: list[bool] = []
        classes: list[int] = []
        for label in np.unique(forget):
            mine, theirs = (np.flatnonzero(labels == label) for labels in (forget, validation))
            count = min(len(mine), len(theirs))
            rows += [*rng.permutation(mine)[:count], *(len(forget) + rng.permutation(theirs)[:count])]
            member += [True] * count + [False] * count
            classes += [int(label)] * (2 * count)
        if len(rows) < 2 * MIN_ROWS:
            raise DataError(
                f"only {len(rows) // 2} forget rows have a validation row of their class, need {MIN_ROWS}; pass more "
                "validation rows of the forget rows' classes"
            )
        half = np.arange(len(rows)) % 2
        return MatchedSample(np.array(rows), np.array(member), np.array(classes) * 2 + half, half)

    def memberships(self, permutations: int, seed: int = 0) -> Array:
        """(B + 1, n): the true membership as 1 and 0, then B permutations of it inside the strata."""
        rng = np.random.default_rng((seed, 1))
        found = np.tile(self.member.astype(np.float64), (permutations + 1, 1))
        for stratum in np.unique(self.strata):
            inside = np.flatnonzero(self.strata == stratum)
            found[1:, inside] = rng.permuted(found[1:, inside], axis=1)
        return found


def same_mix(wanted: NDArray[np.int64], labels: NDArray[np.int64], seed: int = 0) -> NDArray[np.int64]:
    """Numbers of as many rows of `labels` as possible whose mix of classes is that of `wanted`, drawn at random.

    Classes are missing where their quota is below half a row; nothing is left where `labels` lacks a wanted class.
    """
    counts = np.bincount(wanted)
    classes = np.flatnonzero(counts)
    ratio = min(float((labels == c).sum() / counts[c]) for c in classes)
    rng = np.random.default_rng((seed, 2))
    drawn = [rng.permutation(np.flatnonzero(labels == c))[: int(np.floor(ratio * counts[c] + 0.5))] for c in classes]
    return np.concatenate(drawn)


def p_value(statistics: Array) -> float:
    """(1 + #)/(B + 1): the share of permutations, truth included, that are at least as large as the truth (row 0)."""
    return float((statistics >= statistics[0] - 1e-12).mean())


def concentration(features: Array, memberships: Array, floor: float) -> Array:
    """Per membership and feature, how much nearer to the members' mean the members are than the others.

        mean over others of (x − m)² / (variance of members + floor),   m: the members' mean

    About 1 where both samples are alike; large where members share a value that others do not have.

    Args:
        features: (n, p).
        memberships: (B, n), 1 for members.
        floor: Added to the variance, in squared units of the features.

    Returns:
        (B, p).
    """
    others = 1.0 - memberships
    squares = features**2
    inside, outside = memberships.sum(1, keepdims=True), others.sum(1, keepdims=True)
    mean = memberships @ features / inside
    variance = np.maximum(memberships @ squares / inside - mean**2, 0.0)
    distance = others @ squares / outside - 2.0 * mean * (others @ features / outside) + mean**2
    return np.asarray(np.maximum(distance, 0.0) / (variance + floor))


def cross_fitted_auc(features: Array, memberships: Array, half: NDArray[np.int64], l2: float) -> Array:
    """AUC of a ridge classifier of members against others, fitted on one half and judged on the other, both ways.

    Args:
        features: (n, p).
        memberships: (B, n), 1 for members.
        half: (n,) 0 or 1.
        l2: Ridge, relative to the mean squared length of the (centred) rows.

    Returns:
        (B,) the mean of the two AUCs.
    """
    centred = features - features.mean(0)
    gram = centred @ centred.T
    gram /= max(float(np.trace(gram)) / len(gram), np.finfo(np.float64).tiny)
    signs = 2.0 * memberships.T - 1.0
    values = np.zeros(len(memberships))
    for fitted in (0, 1):
        a, b = np.flatnonzero(half == fitted), np.flatnonzero(half != fitted)
        weights = np.linalg.solve(gram[np.ix_(a, a)] + l2 * np.eye(len(a)), signs[a])
        values += _aucs(gram[np.ix_(b, a)] @ weights, memberships[:, b].T) / 2.0
    return values


def _aucs(scores: Array, member: Array) -> Array:
    """AUC per column by the rank sum, ties at midranks."""
    from scipy.stats import rankdata

    ranks = rankdata(scores, axis=0)
    m = member.sum(0)
    return np.asarray(((ranks * member).sum(0) - m * (m + 1) / 2) / (m * (len(member) - m)))
