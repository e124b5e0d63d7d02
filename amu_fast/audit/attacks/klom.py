"""KLoM: per row, how far the unlearned models' margins are distributed from those of models that never saw the row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.audit.metrics import as_matrix
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.metrics import Array

CLIP = 100.0
FLOOR = 1e-5


@dataclass(frozen=True, eq=False)
class KlomResult:
    """KLoM of one part's rows.

    Attributes:
        name: the measure's name.
        per_row: (n,) KL(unlearned || oracle) in nats.
        percentile_95: of the rows.
        floor: the same percentile of further oracles against these, never 0 (S10); None where there were none.
        models: unlearned models.
    """

    name: str
    per_row: Array
    percentile_95: float
    floor: float | None
    models: int


@dataclass(frozen=True)
class Klom:
    """KL(unlearned || oracle) of 20-bin histograms of the margins z_y - logsumexp of the others, per row.

    Margins are clipped at +-100; bins span the pooled range of both sides, the last one closed (the release's digitize
    drops the maximum); oracle shares are floored at 1e-5 where the unlearned models have any. Oracles are models
    trained without the forget rows. The margin is phi, so outputs of a fleet fit as they are.

    Attributes:
        bins: of each histogram.
        min_models: refuse fewer models of either kind.
        in_game: always False: the game never sees oracles.
        name: name in tables.

    Source: Rinberg et al. 2024 (arXiv 2410.23232): original model, 95th percentile: retain .319, forget 9.265,
    validation .264.
    """

    bins: int = 20
    min_models: int = 100
    in_game: bool = False
    name: str = "KLoM"

    def run(self, target: Any, splits: Any = None, *, other_oracles: Any = None) -> KlomResult:
        """Compare unlearned models with oracles on one part's rows.

        Args:
            target: pair of margins, unlearned (k, n) and oracle (l, n).
            splits: not used.
            other_oracles: (k, n) margins of further oracles, for the floor; as many as unlearned models.
        """
        unlearned, oracle = (as_matrix(side, name) for side, name in zip(target, ("unlearned", "oracle"), strict=True))
        self._check(unlearned, oracle)
        per_row, floor = self.divergence(unlearned, oracle), None
        if other_oracles is not None:
            others = as_matrix(other_oracles, "other oracle")
            if others.shape != unlearned.shape:
                raise DataError(
                    f"the floor needs as many oracles as unlearned models, {unlearned.shape}, got {others.shape}"
                )
            floor = float(np.percentile(self.divergence(others, oracle), 95))
        return KlomResult(self.name, per_row, float(np.percentile(per_row, 95)), floor, len(unlearned))

    def divergence(self, unlearned: Array, oracle: Array) -> Array:
        """(n,) KL of the histograms."""
        pairs = zip(np.clip(unlearned, -CLIP, CLIP).T, np.clip(oracle, -CLIP, CLIP).T, strict=True)
        return np.array([self._kl(u, o) for u, o in pairs])

    def _kl(self, unlearned: Array, oracle: Array) -> float:
        low, high = min(unlearned.min(), oracle.min()), max(unlearned.max(), oracle.max())
        edges = np.linspace(low, high if high > low else low + 1.0, self.bins + 1)
        p, q = (np.histogram(side, edges)[0] / len(side) for side in (unlearned, oracle))
        q = np.where(p > 0, np.maximum(q, FLOOR), q)
        at = p > 0
        return float((p[at] * np.log(p[at] / (q[at] / q.sum()))).sum())

    def _check(self, unlearned: Array, oracle: Array) -> None:
        if unlearned.shape[1] != oracle.shape[1]:
            raise DataError(f"both sides need the same rows, got {unlearned.shape[1]} and {oracle.shape[1]}")
        if min(len(unlearned), len(oracle)) < self.min_models:
            raise DataError(
                f"KLoM needs {self.min_models} models of each kind, got {len(unlearned)} and {len(oracle)}; fewer "
                "leave histograms of noise: train more, or lower min_models and say so"
            )
