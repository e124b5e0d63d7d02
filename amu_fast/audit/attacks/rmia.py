"""RMIA: how often the row gained more from training than rows of the population did."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.audit.attacks.lira import SMALL_FPRS
from amu_fast.audit.attacks.outputs import SplitOutputs
from amu_fast.audit.attacks.result import AttackResult
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.attacks.shadows import Shadows, ShadowScores
    from amu_fast.audit.metrics import Array
    from amu_fast.splits import Splits

CIFAR10_OFFLINE = 0.3
"""The authors' a for CIFAR-10; .6 for CIFAR-100, or tuned by attacking a reference."""


@dataclass(frozen=True, eq=False)
class Rmia:
    """Share of population rows z with ratio(x)/ratio(z) > gamma, ratio = p(.|theta)/p(.).

    Online p(x) = (mean p of IN references + mean p of OUT references)/2, or the mean of those there are. Offline
    p(x) = ((1 + a) mean p of OUT references + (1 - a))/2, for x and z alike. The signal is the plain softmax of one
    query; the paper's is a Taylor softmax averaged over 18 augmented queries, so its figures are not comparable. With
    one query the score rises with ratio(x) alone: gamma and the population act through ties only.

    Attributes:
        references: phi of the reference models, with a population part.
        online: whether IN references are used.
        gamma: the margin; the authors' code first had 2, later 1.
        offline_a: a, in [0, 1]; .3 for CIFAR-10, .6 for CIFAR-100 (offline only).
        fprs: false-positive rates to report.
        level: coverage of the intervals.
        seed: seed of the bootstrap.
        in_game: whether a score calibrated on these references was used in the game (S14).
        name: name in tables.

    Source: Zarifzadeh et al. 2024 (arXiv 2312.03262).
    """

    references: Shadows
    online: bool = False
    gamma: float = 2.0
    offline_a: float = CIFAR10_OFFLINE
    fprs: tuple[float, ...] = SMALL_FPRS
    level: float = 0.95
    seed: int = 0
    in_game: bool = False
    name: str = "RMIA"

    def __post_init__(self) -> None:
        if not self.gamma > 0 or not 0 <= self.offline_a <= 1:
            raise DataError(f"gamma must be > 0 and offline_a in [0, 1], got {self.gamma} and {self.offline_a}")
        if self.references.population is None:
            raise DataError("RMIA needs references on population rows; Shadows.of(..., population=True)")

    def run(self, target: Any, splits: Splits | None = None) -> AttackResult:
        """Attack a model on its splits (validation rows are the population), or `SplitOutputs`; forget against test."""
        outputs = SplitOutputs.of(target, splits, parts=("forget", "validation", "test"))
        members, nonmembers = outputs.forget.require("phi"), outputs.test.require("phi")
        population = outputs.require("validation").require("phi")
        of_population = self.references.population
        assert of_population is not None
        if of_population.phi.shape[1] != len(population):
            raise DataError(
                f"the references have {of_population.phi.shape[1]} population rows and the target {len(population)}"
            )
        judged = self.references.judged(members, nonmembers)
        x = self._log_ratio(np.concatenate([members, nonmembers]), judged)
        z = np.sort(self._log_ratio(population, of_population))
        share = np.searchsorted(z, x - math.log(self.gamma), side="left") / len(z)
        return AttackResult.of_scores(
            self.name,
            share[: len(members)],
            share[len(members) :],
            fprs=self.fprs,
            level=self.level,
            seed=self.seed,
            in_game=self.in_game,
            clusters=outputs.clusters(),
        )

    def _log_ratio(self, phi: Array, references: ShadowScores) -> Array:
        """Log p(.|theta) - log p(.) per row, (n,)."""
        log_out = _log_mean(references.phi, references.never)
        if not self.online:
            if not references.never.any(axis=0).all():
                raise DataError("offline RMIA needs a reference that excludes it for every row, and some row has none")
            log_p = np.logaddexp(math.log1p(self.offline_a) + log_out, _log(1.0 - self.offline_a)) - math.log(2.0)
        else:
            log_in = _log_mean(references.phi, references.inside)
            worlds = references.inside.any(axis=0).astype(float) + references.never.any(axis=0)
            if not worlds.all():
                raise DataError("every row needs a reference that is inside or outside, and some row has none")
            log_p = np.logaddexp(log_in, log_out) - np.log(worlds)
        return np.asarray(-np.logaddexp(0.0, -phi) - log_p)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _log_mean(phi: Array, mask: Any) -> Array:
    """Log of the mean of p_y = 1/(1 + exp(-phi)) over the masked models, (n,); -inf where there is none."""
    log_p = np.where(mask, -np.logaddexp(0.0, -phi), -np.inf)
    total = np.logaddexp.reduce(log_p, axis=0)
    return np.asarray(total - np.log(np.maximum(mask.sum(axis=0), 1)))
