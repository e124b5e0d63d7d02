"""The NeurIPS 2023 challenge's forget quality: can attacks tell unlearned from retrained models by a forget row?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.audit.metrics import as_matrix
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.metrics import Array

THRESHOLDS_PER_UNIT = 100
BUFFER = 2.0
BIN_WIDTH = 0.5
PEAKED = 0.01


@dataclass(frozen=True, eq=False)
class ForgetQualityResult:
    """Forget quality of N unlearned against N retrained models.

    Attributes:
        name: the estimator's name with its N, for figures of different N differ.
        epsilon: (n,) estimate per forget row, in [0, 50]; biased upward: identical distributions average 1.3-1.5 (S14).
        quality: mean over rows of 2/2^bin.
        score: quality times the ratios of retain and test accuracy to retrain's; None where they were not given.
        models: N.
    """

    name: str
    epsilon: Array
    quality: float
    score: float | None
    models: int


@dataclass(frozen=True)
class ForgetQuality:
    """Mean over forget rows of 2/2^bin(eps), eps = max over attacks of max{log((1-d-FPR)/FNR), log((1-d-FNR)/FPR)}.

    The attacks: single thresholds (100 per unit of phi; the side with the larger median is positive) and intervals that
    the more peaked side lies in. Dropped where exactly one of FPR and FNR is 0; infinite where both are; none left: 0.
    Rows whose narrower side spans less than 1 % of the wider one have eps = 50. Bins are .5 wide; beyond the last one a
    row scores 0. The text has 13 bins over [0, 6.5); the code as many as fit below ceil(log(N - 1)), 14 at N = 512.

    Attributes:
        delta: d.
        bins: number of bins; None: the code's, from N.
        cap: largest eps.
        in_game: always False: the game never sees retrained models.
        name: name in tables; N is appended.

    Source: Triantafillou et al. 2024 (arXiv 2406.09073) and its released metric.
    """

    delta: float = 1e-5
    bins: int | None = 13
    cap: float = 50.0
    in_game: bool = False
    name: str = "forget quality"

    def run(
        self,
        target: Any,
        splits: Any = None,
        *,
        accuracies: tuple[tuple[float, float], tuple[float, float]] | None = None,
    ) -> ForgetQualityResult:
        """Compare unlearned with retrained models.

        Args:
            target: pair of phi (N, n) on the forget rows, unlearned models first.
            splits: not used.
            accuracies: (retain, test) accuracy of the unlearned model and of the retrained one.
        """
        unlearned, retrained = (
            as_matrix(side, name) for side, name in zip(target, ("unlearned", "retrained"), strict=True)
        )
        if unlearned.shape != retrained.shape or len(unlearned) < 2:
            raise DataError(
                f"forget quality needs phi (N, n) of as many unlearned as retrained models, N >= 2, got "
                f"{unlearned.shape} and {retrained.shape}"
            )
        n_models = len(unlearned)
        epsilon = np.array([self._epsilon(u, r) for u, r in zip(unlearned.T, retrained.T, strict=True)])
        bins = math.ceil(math.log(n_models - 1)) * 2 if self.bins is None else self.bins
        place = np.floor(epsilon / BIN_WIDTH)
        quality = float(np.where(place < bins, 0.5**place, 0.0).mean())
        ratio = None if accuracies is None else math.prod(u / r for u, r in zip(*accuracies, strict=True))
        return ForgetQualityResult(
            f"{self.name}, N = {n_models}", epsilon, quality, None if ratio is None else quality * ratio, n_models
        )

    def _epsilon(self, unlearned: Array, retrained: Array) -> float:
        narrow, wide = sorted((np.ptp(unlearned), np.ptp(retrained)))
        if narrow < PEAKED * wide:
            return self.cap
        rates = [single_rates(unlearned, retrained)]
        if narrow > 0:
            rates.append(interval_rates(unlearned, retrained))
        fpr, fnr = np.concatenate(rates, axis=1)
        if ((fpr == 0) & (fnr == 0)).any():
            return self.cap
        left = (fpr > 0) & (fnr > 0)
        if not left.any():
            return 0.0
        with np.errstate(invalid="ignore", divide="ignore"):
            bounds = [np.log(1 - self.delta - a) - np.log(b) for a, b in ((fpr, fnr), (fnr, fpr))]
        best = np.nanmax(np.where(left, np.fmax(*bounds), np.nan))
        return float(np.clip(np.nan_to_num(best, nan=0.0), 0.0, self.cap))


def single_rates(unlearned: Array, retrained: Array) -> Array:
    """(2, t) FPR and FNR of "at least the threshold", the side with the larger median being positive."""
    up = np.median(retrained) > np.median(unlearned)
    positive, negative = (np.sort(x) for x in ((retrained, unlearned) if up else (unlearned, retrained)))
    low, high = min(positive[0], negative[0]), max(positive[-1], negative[-1])
    thresholds = np.linspace(low, high, max(2, math.ceil((high - low) * THRESHOLDS_PER_UNIT)))
    return np.stack([1.0 - _below(negative, thresholds, "left"), _below(positive, thresholds, "left")])


def interval_rates(unlearned: Array, retrained: Array) -> Array:
    """(2, t) FPR and FNR of "between two thresholds", the more peaked side being positive.

    Right ends lie around that side's, from its largest value - 2 to + 2; left ends its width further down, +- 2.
    """
    positive, negative = unlearned, retrained
    if np.ptp(positive) >= np.ptp(negative):
        positive, negative = negative, positive
    positive, negative, width = np.sort(positive), np.sort(negative), float(np.ptp(positive))
    count = math.ceil(2 * BUFFER * THRESHOLDS_PER_UNIT)
    right = np.linspace(positive[-1] - BUFFER, positive[-1] + BUFFER, count)
    left = (right - width)[:, None] + np.linspace(-BUFFER, BUFFER, count)
    between = [_below(x, right, "right")[:, None] - _below(x, left, "left") for x in (negative, positive)]
    fpr, tpr = (np.maximum(share, 0.0).ravel() for share in between)  # an interval may be turned round, and empty
    return np.stack([fpr, 1.0 - tpr])


def _below(ordered: Array, points: Array, side: Any) -> Array:
    return np.asarray(np.searchsorted(ordered, points, side=side) / len(ordered))
