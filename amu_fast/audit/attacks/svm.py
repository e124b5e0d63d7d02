"""A linear SVM on everything the model releases, trained and judged on different rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.audit.attacks.halves import halves
from amu_fast.audit.attacks.outputs import SplitOutputs
from amu_fast.audit.attacks.result import FPRS, AttackResult
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.metrics import Array
    from amu_fast.splits import Splits

CONSTANT = 1e-6
"""A column with deviation below this share of its mean counts as constant, as in equation (S)."""


@dataclass(frozen=True)
class LinearSvmAttack:
    """Squared-hinge SVM on all scores (logits and loss), trained on F1 and V, judged on F2 and T (S3).

    F1, F2 are random halves of the forget rows (of the persons where outputs name them, S4), V validation, T test.
    Scores are standardised by the training rows; both sides weigh alike. Given the fit the scores on F2 and T are
    fixed, so DeLong's interval holds.

    Attributes:
        l2: strength of the regularisation of (mean loss + l2/2 |w|^2), as in the game's follower.
        fprs: false-positive rates to report.
        level: coverage of the intervals.
        seed: seed of the halves and of the bootstrap; two models are comparable for equal seeds only.
        in_game: whether such an SVM was the auditor of the game.
        name: name in tables.
    """

    l2: float = 1e-2
    fprs: tuple[float, ...] = FPRS
    level: float = 0.95
    seed: int = 0
    in_game: bool = False
    name: str = "linear SVM on all scores"

    def __post_init__(self) -> None:
        if not self.l2 > 0:
            raise DataError(f"l2 must be > 0, got {self.l2}; a positive l2 makes the fit unique")

    def run(self, target: Any, splits: Splits | None = None) -> AttackResult:
        """Attack a model on its splits, or `SplitOutputs` with validation rows."""
        outputs = SplitOutputs.of(target, splits, parts=("forget", "validation", "test"))
        forget, validation, test = (outputs.require(p).scores for p in ("forget", "validation", "test"))
        clusters = outputs.clusters()
        train, judge = halves(len(forget), self.seed, outputs.forget.clusters)
        margin = fit_margin(forget[train], validation, self.l2)
        members, nonmembers = margin(forget[judge]), margin(test)
        result = AttackResult.of_scores(
            self.name,
            members,
            nonmembers,
            fprs=self.fprs,
            level=self.level,
            seed=self.seed,
            in_game=self.in_game,
            clusters=None if clusters is None else (clusters[0][judge], clusters[1]),
        )
        tpr, fpr = float((members > 0).mean()), float((nonmembers > 0).mean())
        return replace(result, accuracy=(1.0 + tpr - fpr) / 2.0, f1=2.0 * tpr / (1.0 + tpr + fpr))


def fit_margin(members: Array, nonmembers: Array, l2: float) -> Callable[[Array], Array]:
    """The fitted margin as a function of score rows (k, d); scores are standardised by these rows.

    Args:
        members: (m, d) scores.
        nonmembers: (n, d) scores; both sides weigh alike.
        l2: strength of the regularisation of (mean loss + l2/2 |w|^2).
    """
    from sklearn.svm import LinearSVC

    x = np.concatenate([members, nonmembers])
    y = np.repeat([1, -1], [len(members), len(nonmembers)])
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    constant = deviation <= CONSTANT * np.maximum(np.abs(mean), np.finfo(np.float64).tiny)
    scale = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, deviation))
    model = LinearSVC(C=1.0 / (len(y) * l2), class_weight="balanced", dual=False, max_iter=10_000)
    model.fit((x - mean) * scale, y)
    return lambda rows: np.asarray(model.decision_function((rows - mean) * scale))
