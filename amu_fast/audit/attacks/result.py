"""What an attack found, with the scores it gave, so that two models can be compared on the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from amu_fast.audit.delong import auc_difference, auc_interval
from amu_fast.audit.roc import tpr_difference, tpr_interval
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from amu_fast.audit.intervals import Interval
    from amu_fast.audit.metrics import Array

    Clusters = tuple[NDArray[Any], NDArray[Any]]

FPRS = (0.01, 0.05)
BY_ROW = "rows resampled one by one, though persons have several (S4)"


@dataclass(frozen=True, eq=False)
class AttackResult:
    """An attack's verdict on one model.

    Attributes:
        name: the attack's name.
        auc: area under the ROC curve with its interval.
        tpr: per false-positive rate, the true-positive rate with its interval.
        member_scores: (m,) scores of the judged members, higher for members.
        nonmember_scores: (n,) scores of the judged non-members.
        in_game: whether this attack, or one like it, was the auditor that the model was unlearned against.
        accuracy: share of right calls with both sides weighted alike; None where no threshold was chosen.
        f1: F1 of the member calls with both sides weighted alike; None where no threshold was chosen.
        cross_fitted: trained and judged on overlapping splits, so its interval is widened by root 2 (S3).
        clusters: person of each member (m,) and non-member row (n,), where rows repeat one (S4).
    """

    name: str
    auc: Interval
    tpr: Mapping[float, Interval]
    member_scores: Array
    nonmember_scores: Array
    in_game: bool = False
    accuracy: float | None = None
    f1: float | None = None
    cross_fitted: bool = False
    clusters: Clusters | None = None

    @staticmethod
    def of_scores(
        name: str,
        members: Array,
        nonmembers: Array,
        *,
        fprs: tuple[float, ...] = FPRS,
        level: float = 0.95,
        seed: int = 0,
        in_game: bool = False,
        clusters: Clusters | None = None,
    ) -> AttackResult:
        """Judge fixed scores: DeLong for the AUC (by person where `clusters` are given), the bootstrap of S5 for rates.

        The bootstrap knows rows only; with clusters its intervals carry a note.
        """
        tpr = {fpr: tpr_interval(members, nonmembers, fpr, level=level, seed=seed) for fpr in fprs}
        if clusters is not None:
            tpr = {fpr: replace(i, note="; ".join(filter(None, (i.note, BY_ROW)))) for fpr, i in tpr.items()}
        area = auc_interval(members, nonmembers, level=level, clusters=clusters)
        return AttackResult(name, area, tpr, members, nonmembers, in_game, clusters=clusters)

    @property
    def members(self) -> int:
        """Members judged, m."""
        return len(self.member_scores)

    @property
    def nonmembers(self) -> int:
        """Non-members judged, n."""
        return len(self.nonmember_scores)

    def difference_to(self, reference: AttackResult, level: float = 0.95) -> Interval:
        """AUC minus the AUC of the same attack on another model, on the same rows (S6): paired DeLong.

        For a cross-fitted attack the interval is centred on its own difference and widened by root 2.
        """
        self._check_same(reference)
        paired = auc_difference(self._pair(), reference._pair(), level=level, clusters=self.clusters)
        return widened(paired, self.auc.value - reference.auc.value, -1.0) if self.cross_fitted else paired

    def tpr_difference_to(self, reference: AttackResult, fpr: float, level: float = 0.95, seed: int = 0) -> Interval:
        """TPR minus that of the same attack on another model, on the same rows: paired bootstrap."""
        self._check_same(reference)
        return tpr_difference(self._pair(), reference._pair(), fpr, level=level, seed=seed)

    def _pair(self) -> tuple[Array, Array]:
        return self.member_scores, self.nonmember_scores

    def _check_same(self, reference: AttackResult) -> None:
        if reference.name != self.name:
            raise DataError(f"differences are taken within one attack, got {self.name!r} and {reference.name!r}")


def widened(fixed: Interval, value: float, lowest: float) -> Interval:
    """Interval of a cross-fitted value: root 2 times the wider half of the fixed scores' DeLong interval (S3).

    Args:
        fixed: interval of the fixed scores.
        value: the cross-fitted value.
        lowest: smallest possible value, 0 for an AUC and -1 for a difference.
    """
    half = math.sqrt(2.0) * max(fixed.value - fixed.low, fixed.high - fixed.value)
    low, high = max(lowest, value - half), min(1.0, value + half)
    return replace(fixed, value=value, low=low, high=high, method=f"{fixed.method}, cross-fitted")
