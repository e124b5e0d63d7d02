"""Over-unlearning: forget rows that stand out because the model is *worse* on them than had it never seen them.

Rule S12: over-unlearning is the whole interval of AUC_unlearned − AUC_retrain, for a score of fixed direction and on
fresh test non-members, below −margin. The AUC of a *trained* attack below .5 is never evidence of it: noise whose two
sample means were made equal has such an AUC, since what a fold lacks the other folds have too much of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from amu_fast.audit.attacks import LossThreshold, Outputs, SplitOutputs
from amu_fast.audit.attacks.svm import fit_margin
from amu_fast.audit.metrics import Array, auc
from amu_fast.errors import DataError
from amu_fast.experiments.dangers.report import DangerReport
from amu_fast.protocols import Attack
from amu_fast.splits import Splits

_L2 = 1e-2


@dataclass(frozen=True)
class OverUnlearningAudit:
    """Flag OVER_UNLEARNED by S12.

    Args:
        margin: On the AUC, fixed before the audit (S8).
        level: Of the interval.
        attack: Its score must have a fixed direction: the loss, or the loss calibrated by references.
    """

    margin: float = 0.05
    level: float = 0.95
    attack: Attack = field(default_factory=LossThreshold)

    def __post_init__(self) -> None:
        if not 0.0 < self.margin < 1.0:
            raise DataError(f"margin must lie in (0, 1), got {self.margin}; .05 is usual")

    def __call__(self, unlearned: Any, retrain: Any, splits: Splits | None = None) -> DangerReport:
        """Audit a model.

        Args:
            unlearned: A model, or its `SplitOutputs`; its test rows were in no game.
            retrain: The same of a model trained without the forget rows.
            splits: Of the models.

        Returns:
            The difference of the AUCs with its interval, and, where there are validation rows, the cross-fitted AUC of
            a trained attack on forget against validation rows: a figure to look at, on which nothing depends.
        """
        parts = ("forget", "validation", "test")
        first, second = (SplitOutputs.of(target, splits, parts=parts) for target in (unlearned, retrain))
        mine, theirs = self.attack.run(first, splits), self.attack.run(second, splits)
        difference = mine.difference_to(theirs, level=self.level)
        figures = {"auc": mine.auc.value, "retrain_auc": theirs.auc.value, "margin": self.margin}
        if first.validation is not None:
            figures["trained_auc"] = cross_fitted_auc(first.forget.scores, first.validation.scores)
        warnings = []
        if difference.high < -self.margin:
            warnings.append(
                f"OVER_UNLEARNED: forget rows score {-difference.value:.3f} of AUC below retrain's (at least "
                f"{-difference.high:.3f}): the model is worse on them than had it never seen them; unlearn less"
            )
        return DangerReport("over-unlearning", figures, {"auc_difference": difference}, tuple(warnings))


def cross_fitted_auc(members: Array, nonmembers: Array, folds: int = 5, seed: int = 0) -> float:
    """Mean over folds of the AUC of a linear SVM fitted on the other folds.

    Args:
        members: (m, d) scores.
        nonmembers: (n, d) scores.
        folds: Stratified, ≥ 2.
        seed: Of the folds.
    """
    if folds < 2 or min(len(members), len(nonmembers)) < folds:
        raise DataError(f"need 2 <= folds <= rows, got {folds} for {len(members)} and {len(nonmembers)} rows")
    rng = np.random.default_rng(seed)
    fold = [rng.permutation(np.arange(len(side)) % folds) for side in (members, nonmembers)]
    values = []
    for held in range(folds):
        margin = fit_margin(members[fold[0] != held], nonmembers[fold[1] != held], _L2)
        values.append(auc(margin(members[fold[0] == held]), margin(nonmembers[fold[1] == held])))
    return float(np.mean(values))


def over_matched_noise(rows: int = 500, dimensions: int = 11, seed: int = 0) -> tuple[SplitOutputs, SplitOutputs]:
    """Pure noise whose forget and validation means were made equal, and noise that was left alone.

    It is what a game does to its own rows, without any memory in it: a cross-fitted attack has AUC .386 at 500 rows a
    side and 11 dimensions, .285 at 128, though fresh rows would score .5.

    Args:
        rows: Of each part.
        dimensions: Of the scores; the first is the log-likelihood.
        seed: Of the noise.

    Returns:
        Outputs of the "unlearned" and of the "retrained" model.
    """
    rng = np.random.default_rng(seed)
    parts = ("forget", "validation", "test")
    unlearned, retrain = ({part: rng.normal(size=(rows, dimensions)) for part in parts} for _ in range(2))
    for part in ("forget", "validation"):
        unlearned[part] -= unlearned[part].mean(axis=0)
    first, second = (
        SplitOutputs(**{part: Outputs(scores, -scores[:, 0], scores[:, 0]) for part, scores in model.items()})
        for model in (unlearned, retrain)
    )
    return first, second
