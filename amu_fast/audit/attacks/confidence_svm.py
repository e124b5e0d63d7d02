"""MIA-efficacy: the attack behind most published tables of gaps, an SVM on the confidence in the true class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.audit.attacks.outputs import Outputs, SplitOutputs
from amu_fast.audit.intervals import Interval, clopper_pearson
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.metrics import Array
    from amu_fast.splits import Splits


@dataclass(frozen=True)
class EfficacyResult:
    """Which share of the forget rows the SVM takes for rows that were never trained on.

    Attributes:
        name: the attack's name.
        efficacy: share of forget rows called non-member, higher = better forgotten; the interval is over forget rows
            with the fitted SVM held fixed. Compare with retrain's, never with 1.
        training_accuracy: share of right calls on the rows that the SVM was fitted on; near .5 the attack sees
            nothing and the efficacy means nothing (S11).
        in_game: whether the confidence was the score of the game.
    """

    name: str
    efficacy: Interval
    training_accuracy: float
    in_game: bool = False


@dataclass(frozen=True)
class ConfidenceSvm:
    """SVC(C=3, rbf, gamma=auto) on p_y: members the first |test| retain rows, non-members all test rows.

    There is no ROC: the test rows train the SVM, so no non-member is left to judge it on.

    Attributes:
        penalty: the SVM's C.
        level: coverage of the interval.
        in_game: whether the confidence was the score of the game.
        name: name in tables.

    Source: Jia et al. 2023 (arXiv 2304.04934), the released code's `SVC_MIA` on the confidence.
    """

    penalty: float = 3.0
    level: float = 0.95
    in_game: bool = False
    name: str = "MIA-efficacy"

    def __post_init__(self) -> None:
        if not self.penalty > 0:
            raise DataError(f"penalty must be > 0, got {self.penalty}; the published attack has 3")

    def run(self, target: Any, splits: Splits | None = None) -> EfficacyResult:
        """Attack a model on its splits, or `SplitOutputs` with retain rows; the seedless fit repeats exactly.

        Raises:
            DataError: fewer retain rows than test rows.
        """
        from sklearn.svm import SVC

        outputs = SplitOutputs.of(target, splits, parts=("retain", "forget", "test"))
        retain, test = _confidence(outputs.require("retain")), _confidence(outputs.test)
        if len(retain) < len(test):
            raise DataError(
                f"{self.name} needs at least as many retain rows as test rows, got {len(retain)} and {len(test)}; "
                "give it fewer test rows"
            )
        x = np.concatenate([retain[: len(test)], test])
        y = np.repeat([1, 0], len(test))
        model = SVC(C=self.penalty, kernel="rbf", gamma="auto").fit(x, y)
        missed = model.predict(_confidence(outputs.forget)) == 0
        share = clopper_pearson(float(missed.sum()), len(missed), self.level)
        return EfficacyResult(self.name, share, float((model.predict(x) == y).mean()), self.in_game)


def _confidence(outputs: Outputs) -> Array:
    """(n, 1) probability of the true class."""
    return np.asarray(np.exp(-outputs.require("loss"))[:, None])
