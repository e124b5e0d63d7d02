"""U-LiRA: is this phi that of a model which saw the row and unlearned it, or of one which never saw it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amu_fast.audit.attacks.lira import SMALL_FPRS, Lira, Variance
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.attacks.result import AttackResult
    from amu_fast.audit.attacks.shadows import Shadows
    from amu_fast.splits import Splits

MIN_PAIRS = 16


@dataclass(frozen=True, eq=False)
class ULira:
    """log N(phi; forgotten) - log N(phi; never) per row: the strongest attack on an unlearned model.

    "Forgotten" models were trained on the row and then unlearned it; "never" models were trained without it *and
    unlearned another forget set*, so that the traces of unlearning as such are on both sides. Models that kept the row
    are neither: leave them out of both masks. The scores are phi: Gaussians fitted to right-or-wrong answers, as one
    release does, are not densities.

    Attributes:
        shadows: `inside` marks forgotten rows, `outside` never-seen ones; the judging references are not those of the
            game or of tuning (S14). `amu_fast.fleet.ulira_specs` lays such models out.
        variance: as in `Lira`; "auto" pools forgotten and never per row below 64 models a world (S14: at 16 pairs that
            keeps 81 % of the ideal TPR at .1 %, per world 63 %, one for all rows 45 %).
        min_pairs: refuse rows with fewer forgotten or fewer never models.
        fprs: false-positive rates to report.
        level: coverage of the intervals.
        seed: seed of the bootstrap.
        in_game: whether a score calibrated on these shadows was used in the game.
        name: name in tables.

    Source: Hayes et al. 2024 (arXiv 2403.01218).
    """

    shadows: Shadows
    variance: Variance = "auto"
    min_pairs: int = MIN_PAIRS
    fprs: tuple[float, ...] = SMALL_FPRS
    level: float = 0.95
    seed: int = 0
    in_game: bool = False
    name: str = "U-LiRA"

    def __post_init__(self) -> None:
        for part in ("forget", "test"):
            forgotten, never = getattr(self.shadows, part).counts()
            if min(forgotten, never) < max(2, self.min_pairs):
                raise DataError(
                    f"U-LiRA needs {self.min_pairs} forgotten and {self.min_pairs} never models for every row, got "
                    f"{forgotten} and {never} for a {part} row; train more, or lower min_pairs and say so"
                )

    def run(self, target: Any, splits: Splits | None = None) -> AttackResult:
        """Attack an unlearned model on its splits, or `SplitOutputs`; forget against test."""
        ratio = Lira(
            self.shadows,
            variance=self.variance,
            fprs=self.fprs,
            level=self.level,
            seed=self.seed,
            in_game=self.in_game,
            name=self.name,
        )
        return ratio.run(target, splits)
