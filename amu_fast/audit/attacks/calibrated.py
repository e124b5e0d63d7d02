"""The loss against what it would be without training on the row: the cheap strong attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.audit.attacks.outputs import SplitOutputs
from amu_fast.audit.attacks.result import FPRS, AttackResult
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.metrics import Array
    from amu_fast.splits import Splits


@dataclass(frozen=True, eq=False)
class CalibratedLoss:
    """Score phi(x) - mean over references of their phi(x), phi = log p_y - log(1 - p_y).

    Attributes:
        references: models (or their `SplitOutputs` on the same rows) trained without the forget rows; one or two
            do. All rows of a table use the same number (S13), and none may be the retrained model compared with.
        fprs: false-positive rates to report.
        level: coverage of the intervals.
        seed: seed of the bootstrap.
        in_game: whether a score calibrated on these references was used in the game (S14).
        name: name in tables.

    Source: Watson et al. 2022 (arXiv 2111.08440), with the logit-scaled confidence of arXiv 2112.03570.
    """

    references: tuple[Any, ...]
    fprs: tuple[float, ...] = FPRS
    level: float = 0.95
    seed: int = 0
    in_game: bool = False
    name: str = "calibrated loss"

    def __post_init__(self) -> None:
        if not self.references:
            raise DataError("CalibratedLoss needs at least 1 reference, got 0; train one without the forget rows")

    def run(self, target: Any, splits: Splits | None = None) -> AttackResult:
        """Attack a model on its splits, or `SplitOutputs`; forget against test."""
        outputs = SplitOutputs.of(target, splits)
        references = [SplitOutputs.of(reference, splits) for reference in self.references]
        members, nonmembers = (self._scores(outputs, references, part) for part in ("forget", "test"))
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

    def _scores(self, outputs: SplitOutputs, references: list[SplitOutputs], part: str) -> Array:
        phi = outputs.require(part).require("phi")
        others = [reference.require(part).require("phi") for reference in references]
        for index, other in enumerate(others):
            if len(other) != len(phi):
                raise DataError(
                    f"reference {index} has {len(other)} {part} rows and the target {len(phi)}; use the same rows"
                )
        return np.asarray(phi - np.mean(others, axis=0))
