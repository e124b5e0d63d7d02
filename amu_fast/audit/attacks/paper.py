"""The attack of the game's paper: logistic regression on the scalar loss, cross-fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.audit.attacks.outputs import SplitOutputs
from amu_fast.audit.attacks.result import FPRS, AttackResult, widened
from amu_fast.audit.metrics import Array, auc
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.splits import Splits

MIN_ROWS = 10


@dataclass(frozen=True)
class PaperAttack:
    """Mean accuracy, AUC and F1 of logistic regression on the loss over stratified shuffle splits, sides balanced.

    The larger side is cut to the smaller one's size. The direction is learned in each split, so over-unlearning
    shows as success too: read it beside a fixed-direction score. The TPRs are those of the loss itself.

    Attributes:
        repeats: number of random splits.
        held_out: share of the rows judged in each.
        fprs: false-positive rates to report.
        level: coverage of the intervals.
        seed: seed of the balancing, the splits and the bootstrap.
        in_game: whether the loss was the score of the game.
        name: name in tables.

    Source: Di et al. 2025 (arXiv 2406.07687); scikit-learn's defaults, as in the released code.
    """

    repeats: int = 10
    held_out: float = 0.1
    fprs: tuple[float, ...] = FPRS
    level: float = 0.95
    seed: int = 0
    in_game: bool = False
    name: str = "logistic regression on the loss"

    def run(self, target: Any, splits: Splits | None = None) -> AttackResult:
        """Attack a model on its splits, `SplitOutputs`, or a pair of score arrays; forget against test."""
        outputs = SplitOutputs.of(target, splits)
        if outputs.clusters() is not None:
            raise DataError(
                f"the published {self.name} folds by row, so its interval is too narrow where persons have several "
                "rows (S4); leave the clusters out and say so, or use permutation_test"
            )
        members, nonmembers = self._balanced(-outputs.forget.require("loss"), -outputs.test.require("loss"))
        accuracy, area, f1 = self._cross_fit(members, nonmembers)
        fixed = AttackResult.of_scores(
            self.name, members, nonmembers, fprs=self.fprs, level=self.level, seed=self.seed, in_game=self.in_game
        )
        return replace(fixed, auc=widened(fixed.auc, area, 0.0), accuracy=accuracy, f1=f1, cross_fitted=True)

    def _balanced(self, members: Array, nonmembers: Array) -> tuple[Array, Array]:
        size = min(len(members), len(nonmembers))
        if size < MIN_ROWS:
            raise DataError(
                f"{self.name} needs at least {MIN_ROWS} rows a side, got {len(members)} members and "
                f"{len(nonmembers)} non-members; use the attack 'loss'"
            )
        rng = np.random.default_rng(self.seed)
        first, second = (side[np.sort(rng.permutation(len(side))[:size])] for side in (members, nonmembers))
        return first, second

    def _cross_fit(self, members: Array, nonmembers: Array) -> tuple[float, float, float]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import f1_score
        from sklearn.model_selection import StratifiedShuffleSplit

        x = np.concatenate([members, nonmembers])[:, None]
        y = np.repeat([1, -1], [len(members), len(nonmembers)])
        cut = StratifiedShuffleSplit(self.repeats, test_size=self.held_out, random_state=self.seed)
        figures = []
        for train, test in cut.split(x, y):
            model = LogisticRegression().fit(x[train], y[train])
            margin, truth = model.decision_function(x[test]), y[test]
            called = model.predict(x[test])
            area = auc(margin[truth == 1], margin[truth == -1])
            figures.append(((called == truth).mean(), area, f1_score(truth, called)))
        accuracy, area, f1 = np.mean(figures, axis=0)
        return float(accuracy), float(area), float(f1)
