"""Distributions as counts on fixed grids and ROC curves at fixed rates: what a shared document may hold.

No bin's edge depends on the rows, so that no row's loss can be read off an edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.audit.roc import NONMEMBERS_PER_FPR, RocCurve, roc_curve
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.attacks import AttackResult

LOSS_EDGES = tuple(float(f"{edge:.4g}") for edge in np.geomspace(1e-6, 1e2, 41))
"""Five bins a decade; losses outside are counted in the outermost bins."""
CHANGE_EDGES = tuple(float(edge) for edge in np.linspace(-20.0, 20.0, 41))
"""Of changes of a logit-scaled score; changes outside are counted in the outermost bins."""
_DIGITS = 4


@dataclass(frozen=True)
class Histogram:
    """Counts of rows on a fixed grid.

    Attributes:
        edges: k + 1 increasing bin edges; values outside are counted in the outermost bins.
        counts: k numbers of rows.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1 or list(self.edges) != sorted(set(self.edges)):
            raise DataError(
                f"a histogram of {len(self.counts)} bins needs {len(self.counts) + 1} increasing edges, "
                f"got {len(self.edges)}"
            )

    @staticmethod
    def of(values: Any, edges: tuple[float, ...]) -> Histogram:
        """Counts of the values (n,).

        >>> Histogram.of([-9.0, 0.5, 1.5, 9.0], (0.0, 1.0, 2.0)).counts
        (2, 2)
        """
        from amu_fast.audit.metrics import as_scores

        clipped = np.clip(as_scores(values, "values"), edges[0], edges[-1])
        return Histogram(edges, tuple(int(count) for count in np.histogram(clipped, edges)[0]))

    @property
    def rows(self) -> int:
        """Number of rows counted."""
        return sum(self.counts)

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of rows per bin."""
        return tuple(count / max(1, self.rows) for count in self.counts)


@dataclass(frozen=True)
class LossHistograms:
    """Cross-entropy per row, in nats, of each model on each part.

    Attributes:
        models: model ("original", "unlearned", "retrained") to part ("forget", "test", "retain") to its histogram.
    """

    models: Mapping[str, Mapping[str, Histogram]]

    @staticmethod
    def of(losses: Mapping[str, Mapping[str, Any]]) -> LossHistograms:
        """From losses (n,) per model and part."""
        models = {
            model: {part: Histogram.of(values, LOSS_EDGES) for part, values in parts.items()}
            for model, parts in losses.items()
        }
        return LossHistograms(models)


@dataclass(frozen=True)
class RocRecord:
    """The ROC curve of one attack on one model, at fixed rates.

    Attributes:
        attack: its name.
        model: the attacked model.
        in_game: whether the model was unlearned against this attack.
        members: rows judged.
        nonmembers: rows judged.
        fpr: false-positive rates, from 10/n to 1.
        tpr: true-positive rates, to four digits.
        low: lower ends of the pointwise bands.
        high: upper ends.
        level: pointwise coverage of the bands; the rows are resampled, so they speak for this model only.
    """

    attack: str
    model: str
    in_game: bool
    members: int
    nonmembers: int
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    level: float

    def __post_init__(self) -> None:
        lengths = {len(column) for column in (self.fpr, self.tpr, self.low, self.high)}
        if len(lengths) != 1 or 0 in lengths:
            raise DataError(f"a ROC needs equally many rates in each column, got lengths {sorted(lengths)}")

    @staticmethod
    def of(result: AttackResult, model: str, in_game: bool | None = None) -> RocRecord | None:
        """From an attack's result; None with so few non-members that less than half the axis is left (S5)."""
        if result.nonmembers <= 2 * NONMEMBERS_PER_FPR:
            return None
        curve = roc_curve(result.member_scores, result.nonmember_scores)
        return RocRecord(
            result.name,
            model,
            result.in_game if in_game is None else in_game,
            result.members,
            result.nonmembers,
            fpr=_rounded(curve.fpr),
            tpr=_rounded(curve.tpr),
            low=_rounded(curve.low),
            high=_rounded(curve.high),
            level=curve.level,
        )

    def curve(self) -> RocCurve:
        """As arrays, for the figure."""
        columns = [np.asarray(column, dtype=np.float64) for column in (self.fpr, self.tpr, self.low, self.high)]
        return RocCurve(columns[0], columns[1], columns[2], columns[3], self.level)


def _rounded(column: Any) -> tuple[float, ...]:
    return tuple(float(x) for x in np.round(column, _DIGITS))
