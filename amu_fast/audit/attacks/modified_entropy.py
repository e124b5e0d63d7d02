"""Song and Mittal's modified entropy as a fixed score: the loss's rival that also looks at the wrong classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amu_fast.audit import metrics
from amu_fast.audit.attacks.outputs import SplitOutputs
from amu_fast.audit.attacks.result import FPRS, AttackResult

if TYPE_CHECKING:
    from amu_fast.splits import Splits


@dataclass(frozen=True)
class ModifiedEntropy:
    """Score -[ -(1 - p_y) log p_y - sum_{i != y} p_i log(1 - p_i) ], with 1 - p floored at 1e-30.

    Two releases get it wrong: one writes log p_i where log(1 - p_i) belongs and `p[:, labels]`, which changes every
    listed column in every row; the other sums -q log q with q_y = 1 - p_y.

    Attributes:
        fprs: false-positive rates to report.
        level: coverage of the intervals.
        seed: seed of the bootstrap.
        in_game: whether this was a score of the game.
        name: name in tables.

    Source: Song and Mittal 2021 (arXiv 2003.10595).
    """

    fprs: tuple[float, ...] = FPRS
    level: float = 0.95
    seed: int = 0
    in_game: bool = False
    name: str = "modified entropy"

    def run(self, target: Any, splits: Splits | None = None) -> AttackResult:
        """Attack a model on its splits, or `SplitOutputs` made of logits; forget against test."""
        outputs = SplitOutputs.of(target, splits)
        members, nonmembers = (metrics.modified_entropy(*part.logits()) for part in (outputs.forget, outputs.test))
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
