"""The loss itself as the score: no training, no reference, no threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amu_fast.audit.attacks.outputs import SplitOutputs
from amu_fast.audit.attacks.result import FPRS, AttackResult

if TYPE_CHECKING:
    from amu_fast.splits import Splits


@dataclass(frozen=True)
class LossThreshold:
    """Score -loss; a fixed direction, so an AUC below retrain's means over-unlearning (S12).

    Attributes:
        fprs: false-positive rates to report.
        level: coverage of the intervals.
        seed: seed of the bootstrap.
        in_game: whether the loss was the score of the game.
        name: name in tables.

    Source: Yeom et al. 2018 (arXiv 1709.01604).
    """

    fprs: tuple[float, ...] = FPRS
    level: float = 0.95
    seed: int = 0
    in_game: bool = False
    name: str = "loss"

    def run(self, target: Any, splits: Splits | None = None) -> AttackResult:
        """Attack a model on its splits, `SplitOutputs`, or a pair of score arrays; forget against test."""
        outputs = SplitOutputs.of(target, splits)
        members, nonmembers = -outputs.forget.require("loss"), -outputs.test.require("loss")
        return AttackResult.of_scores(
            self.name,
            members,
            nonmembers,
            fprs=self.fprs,
            level=self.level,
            seed=self.seed,
            in_game=self.in_game,
            clusters=outputs.clusters(),
        )
