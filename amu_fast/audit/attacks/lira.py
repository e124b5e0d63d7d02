"""The likelihood-ratio attack: is this phi that of a model which saw the row, or of one which did not?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from amu_fast.audit.attacks.outputs import SplitOutputs
from amu_fast.audit.attacks.result import AttackResult
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.attacks.shadows import Mask, Shadows, ShadowScores
    from amu_fast.audit.metrics import Array
    from amu_fast.splits import Splits

Variance = Literal["auto", "row", "pooled", "global"]
VARIANCES = ("auto", "row", "pooled", "global")

SMALL_FPRS = (0.001, 0.01)
FEW_MODELS = 64
"""Below this many shadow models a row's own variance is too noisy (arXiv 2112.03570, section VI-C)."""

DEVIATION_FLOOR = 1e-30


@dataclass(frozen=True, eq=False)
class Lira:
    """Online: log N(phi; IN) - log N(phi; OUT) per row. Offline: (phi - mu_OUT)/sigma_OUT.

    The offline score is the normal quantile of the one-sided Phi((phi - mu)/sigma): the same ranking, without its
    ties at 1. Locations are medians, deviations have 1e-30 added. Two faults of the reference code are not repeated:
    its offline score is the two-sided OUT density, so rows far *below* mu look like members, and its fixed OUT variance
    is that of the IN scores.

    Attributes:
        shadows: of models trained like the target; every judged row IN for some and OUT for others (offline: OUT).
        online: whether IN models are used.
        variance: "row": per row and world. "pooled": per row, one for both worlds (online only). "global": per world,
            one for all rows. "auto": "row" from 64 models a world on; below, "pooled" online (S14), "global" offline.
        fprs: false-positive rates to report.
        level: coverage of the intervals.
        seed: seed of the bootstrap.
        in_game: whether a score calibrated on these shadows was used in the game (S14).
        name: name in tables.

    Source: Carlini et al. 2022 (arXiv 2112.03570).
    """

    shadows: Shadows
    online: bool = True
    variance: Variance = "auto"
    fprs: tuple[float, ...] = SMALL_FPRS
    level: float = 0.95
    seed: int = 0
    in_game: bool = False
    name: str = "LiRA"

    def __post_init__(self) -> None:
        if self.variance not in VARIANCES:
            raise DataError(f"variance must be one of {VARIANCES}, got {self.variance!r}")
        if self.variance == "pooled" and not self.online:
            raise DataError("variance 'pooled' pools IN and OUT, and offline LiRA has no IN; use 'row' or 'global'")

    def run(self, target: Any, splits: Splits | None = None) -> AttackResult:
        """Attack a model on its splits, or `SplitOutputs`; forget against test."""
        outputs = SplitOutputs.of(target, splits)
        members, nonmembers = outputs.forget.require("phi"), outputs.test.require("phi")
        shadows = self.shadows.judged(members, nonmembers)
        phi = np.concatenate([members, nonmembers])
        score = log_ratio(phi, shadows, self.variance) if self.online else out_score(phi, shadows, self.variance)
        return AttackResult.of_scores(
            self.name,
            score[: len(members)],
            score[len(members) :],
            fprs=self.fprs,
            level=self.level,
            seed=self.seed,
            in_game=self.in_game,
            clusters=outputs.clusters(),
        )


def log_ratio(phi: Array, shadows: ShadowScores, variance: Variance) -> Array:
    """Log N(phi; mu_in, sigma_in) - log N(phi; mu_out, sigma_out) per row, (n,).

    Args:
        phi: (n,) of the target.
        shadows: (k, n); at least 2 models IN and 2 OUT for every row.
        variance: as in `Lira`.
    """
    fewest = min(shadows.counts())
    if fewest < 2:
        raise DataError(f"online scores need at least 2 IN and 2 OUT models for every row, got {shadows.counts()}")
    if variance == "auto":
        variance = "row" if fewest >= FEW_MODELS else "pooled"
    total = np.zeros(len(phi))
    for sign, mask in ((1.0, shadows.inside), (-1.0, shadows.never)):
        deviation = _pooled(shadows) if variance == "pooled" else _deviation(shadows.phi, mask, variance)
        z = (phi - _median(shadows.phi, mask)) / deviation
        total += sign * (-0.5 * z * z - np.log(deviation))
    return total


def out_score(phi: Array, shadows: ShadowScores, variance: Variance) -> Array:
    """(phi - mu_out)/sigma_out per row, (n,); at least 2 OUT models for every row."""
    fewest = shadows.counts()[1]
    if fewest < 2:
        raise DataError(f"offline scores need at least 2 OUT models for every row, got {fewest}")
    if variance == "auto":
        variance = "row" if fewest >= FEW_MODELS else "global"
    return np.asarray((phi - _median(shadows.phi, shadows.never)) / _deviation(shadows.phi, shadows.never, variance))


def _median(phi: Array, mask: Mask) -> Array:
    return np.asarray(np.nanmedian(np.where(mask, phi, np.nan), axis=0))


def _squares(phi: Array, mask: Mask) -> tuple[Array, Array]:
    """Per row the sum of squares around the mean of one world, and its degrees of freedom."""
    count = mask.sum(axis=0)
    mean = np.where(mask, phi, 0.0).sum(axis=0) / count
    return np.where(mask, (phi - mean) ** 2, 0.0).sum(axis=0), count - 1.0


def _deviation(phi: Array, mask: Mask, variance: Variance) -> Array:
    squares, degrees = _squares(phi, mask)
    if variance == "global":
        squares, degrees = np.full_like(squares, squares.sum()), np.full_like(degrees, degrees.sum())
    return np.asarray(np.sqrt(squares / degrees) + DEVIATION_FLOOR)


def _pooled(shadows: ShadowScores) -> Array:
    (a, m), (b, n) = (_squares(shadows.phi, mask) for mask in (shadows.inside, shadows.never))
    return np.asarray(np.sqrt((a + b) / (m + n)) + DEVIATION_FLOOR)
