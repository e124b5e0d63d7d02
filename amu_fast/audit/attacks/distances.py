"""How far apart the losses of forget and test rows lie, beside what chance alone gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amu_fast.audit.attacks.outputs import SplitOutputs
from amu_fast.audit.metrics import ks_statistic, wasserstein_1
from amu_fast.audit.permutation import MIN_DRAWS, PermutationTest, permutation_test

if TYPE_CHECKING:
    from amu_fast.splits import Splits


@dataclass(frozen=True, eq=False)
class DistanceResult:
    """Two distances, each with its permutation null: neither is 0 when nothing is revealed (S10).

    Attributes:
        name: the attack's name.
        ks: max |F - G| of the losses.
        wasserstein: integral of |F - G|, in nats.
        in_game: whether the loss was the score of the game.
    """

    name: str
    ks: PermutationTest
    wasserstein: PermutationTest
    in_game: bool = False


@dataclass(frozen=True)
class LossDistances:
    """Kolmogorov-Smirnov and Wasserstein-1 distance between forget and test losses; neither has a direction.

    Attributes:
        draws: permutations, >= 999; persons change sides whole where the outputs name them (S4).
        seed: seed of the permutations.
        in_game: whether the loss was the score of the game.
        name: name in tables.

    Source: Di et al. 2025 (arXiv 2406.07687) reports both.
    """

    draws: int = MIN_DRAWS
    seed: int = 0
    in_game: bool = False
    name: str = "loss distances"

    def run(self, target: Any, splits: Splits | None = None) -> DistanceResult:
        """Of a model on its splits, `SplitOutputs`, or a pair of score arrays; forget against test."""
        outputs = SplitOutputs.of(target, splits)
        sides = outputs.forget.require("loss"), outputs.test.require("loss")
        ks, w1 = (
            permutation_test(statistic, *sides, draws=self.draws, clusters=outputs.clusters(), seed=self.seed)
            for statistic in (ks_statistic, wasserstein_1)
        )
        return DistanceResult(self.name, ks, w1, self.in_game)
