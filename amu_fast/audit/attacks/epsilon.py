"""A lower bound on epsilon that holds with its stated confidence, and the most that N models can ever show (S14)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.audit.metrics import as_matrix
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.metrics import Array


@dataclass(frozen=True, eq=False)
class EpsilonResult:
    """What the models prove about epsilon, and what they could have proved.

    Attributes:
        name: the bound's name.
        epsilon: the largest lower bound of any row, all rows holding at once with the stated confidence; 0: nothing.
        per_row: (n,) those bounds.
        ceiling: the bound that perfect separation of this many judged models gives.
        models: models of each kind that were judged; as many again chose the thresholds.
        level: confidence.
    """

    name: str
    epsilon: float
    per_row: Array
    ceiling: float
    models: int
    level: float


@dataclass(frozen=True)
class EpsilonBound:
    """Largest eps with P(A | unlearned) > e^eps P(A | retrained) + delta for a threshold event A, as a lower bound.

    The threshold and its direction come from the first half of the models; FPR and FNR of the second half enter by
    their Clopper-Pearson upper ends, Bonferroni over both rates and all rows.

    Attributes:
        delta: as in (eps, delta)-unlearning.
        level: confidence that no row's bound is too large.
        in_game: always False: the game never sees retrained models.
        name: name in tables.
    """

    delta: float = 1e-5
    level: float = 0.95
    in_game: bool = False
    name: str = "epsilon, lower bound"

    def __post_init__(self) -> None:
        if not 0 < self.level < 1 or not 0 <= self.delta < 1:
            raise DataError(f"level must lie in (0, 1) and delta in [0, 1), got {self.level} and {self.delta}")

    def run(self, target: Any, splits: Any = None) -> EpsilonResult:
        """Bound from a pair of phi (N, n) on the forget rows, unlearned models first; the models in random order.

        Args:
            target: the pair.
            splits: not used.
        """
        u, r = (as_matrix(side, name) for side, name in zip(target, ("unlearned", "retrained"), strict=True))
        if u.shape != r.shape or len(u) < 4:
            raise DataError(
                f"the bound needs phi (N, n) of as many unlearned as retrained models, N >= 4, got {u.shape} and "
                f"{r.shape}"
            )
        half, rows = len(u) // 2, u.shape[1]
        judged = len(u) - half
        bounds = np.empty(rows)
        for row in range(rows):
            sign, threshold = best_threshold(u[:half, row], r[:half, row])
            false_negative = int((sign * u[half:, row] <= threshold).sum())
            false_positive = int((sign * r[half:, row] > threshold).sum())
            bounds[row] = self._bound(false_positive, false_negative, judged, rows)
        return EpsilonResult(self.name, float(bounds.max()), bounds, self.ceiling(judged, rows), judged, self.level)

    def ceiling(self, models: int, rows: int = 1) -> float:
        """The bound when all `models` judged models of each kind fall on their own side, for each of `rows` rows.

        >>> [[round(EpsilonBound().ceiling(n, rows), 2) for n in (16, 64, 512)] for rows in (1, 500)]
        [[1.35, 2.82, 4.93], [0.15, 1.79, 3.94]]
        """
        return self._bound(0, 0, models, rows)

    def _bound(self, false_positive: int, false_negative: int, models: int, rows: int) -> float:
        from scipy.special import betaincinv

        tail = (1.0 - self.level) / (2 * rows)
        fpr, fnr = (
            1.0 if k >= models else float(betaincinv(k + 1, models - k, 1.0 - tail))
            for k in (false_positive, false_negative)
        )
        shares = [(1.0 - self.delta - a) / b for a, b in ((fpr, fnr), (fnr, fpr))]
        return max(0.0, *(math.log(share) for share in shares if share > 0), 0.0)


def best_threshold(unlearned: Array, retrained: Array) -> tuple[float, float]:
    """Sign s and threshold t of "s phi > t means unlearned" with the fewest errors on these models.

    Of equally good thresholds the middle one, half-way between two values.
    """
    values = np.unique(np.concatenate([unlearned, retrained]))
    cuts = np.concatenate([[values[0] - 1.0], (values[1:] + values[:-1]) / 2, [values[-1] + 1.0]])
    above_u, above_r = ((x[:, None] > cuts).mean(axis=0) for x in (unlearned, retrained))
    gain = above_u - above_r
    best = float(np.abs(gain).max())
    sign = 1.0 if gain.max() >= best else -1.0
    tied = np.flatnonzero(sign * gain >= best)
    return sign, sign * float(cuts[tied[len(tied) // 2]])
