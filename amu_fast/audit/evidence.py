"""What claims are made from: an attack's results on the judged model, on its reference and on its controls.

With one unit the intervals are over rows and speak for this model; with several they are Student t over units and
speak for the algorithm (S1). One AttackResult per unit, in the same order for all models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from amu_fast.audit.attacks.result import AttackResult, widened
from amu_fast.audit.claims import Claim, auc_claim, over_unlearning_claim, tpr_claim
from amu_fast.audit.controls import Control
from amu_fast.audit.delong import auc_interval
from amu_fast.audit.intervals import TOST_LEVEL, Interval, t_interval
from amu_fast.audit.metrics import tpr_at_fpr
from amu_fast.audit.multiplicity import IntervalAt
from amu_fast.audit.reasons import Reason
from amu_fast.audit.roc import MEMBERS_PER_FPR, NONMEMBERS_PER_FPR, tpr_interval
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.margins import Margins
    from amu_fast.audit.regions import Side

CHANCE = 0.5
DRAWS = 10_000
"""Bootstrap draws of a TPR; enough for the levels that Holm's procedure asks for."""

Results = tuple[AttackResult, ...]


@dataclass(frozen=True, eq=False)
class Evidence:
    """One attack's results.

    Attributes:
        unlearned: on the judged model, one per unit.
        retrain: on the retrained model, on the same rows; empty: compared with .5, which needs `chance_proven`.
        original: on the model before unlearning, or a planted bad unlearner: the positive control.
        floor: on another retrained model; without a retrained model, V_tune as members against test rows: the negative
            control.
        required: whether the verdict rests on the attack.
        fixed_direction: whether the score's direction was fixed beforehand; None: it was if the attack chose no
            threshold and was not cross-fitted.
        chance_proven: whether S6 allows .5.
        clustered: several rows belong to one person, so that results that know no persons ignore them (S4).
    """

    unlearned: Results
    retrain: Results = ()
    original: Results = ()
    floor: Results = ()
    required: bool = True
    fixed_direction: bool | None = None
    chance_proven: bool = False
    clustered: bool = False

    def __post_init__(self) -> None:
        if not self.unlearned:
            raise DataError("evidence needs at least 1 result of the unlearned model, got 0; run the attack on it")
        for name in ("retrain", "original", "floor"):
            results = getattr(self, name)
            if results and len(results) != len(self.unlearned):
                raise DataError(f"{name} has {len(results)} units and unlearned {len(self.unlearned)}; judge the same")

    @property
    def name(self) -> str:
        """The attack's."""
        return self.unlearned[0].name

    @property
    def in_game(self) -> bool:
        """Whether the attack was the game's auditor."""
        return any(result.in_game for result in self.unlearned)

    @property
    def fixed(self) -> bool:
        """Whether the score has a fixed direction (S12)."""
        if self.fixed_direction is not None:
            return self.fixed_direction
        return all(result.accuracy is None and not result.cross_fitted for result in self.unlearned)

    def auc(self, margin: float) -> Claim:
        """Equivalent to the reference's AUC."""
        at, controls = self._difference(self.unlearned), self._controls(margin, "both")
        return auc_claim(
            f"{self.name}: AUC", at, margin, fixed_direction=self.fixed, controls=controls,
            in_game=self.in_game, required=self.required, blockers=self._blockers(),
        )  # fmt: skip

    def over_unlearning(self, margin: float) -> Claim:
        """Not below the reference's AUC; DataError for a trained attack, which is no evidence of it."""
        if not self.fixed:
            raise DataError(f"{self.name!r} is trained; over-unlearning needs a score of fixed direction (S12)")
        at, controls = self._difference(self.unlearned), self._controls(margin, "at_least")
        return over_unlearning_claim(
            f"{self.name}: over-unlearning", at, margin, controls=controls,
            in_game=self.in_game, required=self.required, blockers=self._blockers(),
        )  # fmt: skip

    def tpr(self, bound: float, fpr: float) -> Claim:
        """TPR at one FPR below a bound."""
        ats = {name: _tpr_at(getattr(self, name), fpr) for name in ("unlearned", "original", "floor")}
        controls = []
        if self.original:
            controls.append(Control.positive(ats["original"](TOST_LEVEL), bound))
        if self.floor:
            controls.append(Control.negative(ats["floor"](TOST_LEVEL), bound, "at_most"))
        return tpr_claim(
            f"{self.name}: TPR at FPR {fpr:g}", ats["unlearned"], bound, controls=controls,
            in_game=self.in_game, required=self.required, blockers=self._rate_blockers(fpr),
        )  # fmt: skip

    def claims(self, margins: Margins, *, tpr: bool = True) -> tuple[Claim, ...]:
        """All claims of this attack: AUC, over-unlearning where its direction is fixed, and the TPR if wanted."""
        made = [self.auc(margins.auc)]
        if self.fixed:
            made.append(self.over_unlearning(margins.auc))
        if tpr and margins.tpr is not None:
            made.append(self.tpr(margins.tpr, margins.tpr_fpr))
        return tuple(made)

    def _difference(self, results: Results) -> IntervalAt:
        """AUC minus the reference's, at a level."""
        if len(results) == 1:
            return _row_difference(results[0], self.retrain[0] if self.retrain else None)
        references = [result.auc.value for result in self.retrain] or [CHANCE] * len(results)
        return over_units([r.auc.value - other for r, other in zip(results, references, strict=True)])

    def _controls(self, margin: float, side: Side) -> list[Control]:
        controls = []
        if self.original:
            controls.append(Control.positive(self._difference(self.original)(TOST_LEVEL), margin))
        if self.floor:
            controls.append(Control.negative(self._difference(self.floor)(TOST_LEVEL), margin, side))
        return controls

    def _blockers(self) -> tuple[Reason, ...]:
        unproven = not self.retrain and not self.chance_proven
        ignored = self._clustered() and any(_clusters(result) is None for result in self.unlearned)
        found = {Reason.REFERENCE_UNPROVEN: unproven, Reason.CLUSTERS_IGNORED: ignored}
        return tuple(code for code, applies in found.items() if applies)

    def _clustered(self) -> bool:
        """Whether an interval over rows would count persons several times; one over units counts none of them."""
        return len(self.unlearned) == 1 and (self.clustered or _clusters(self.unlearned[0]) is not None)

    def _rate_blockers(self, fpr: float) -> tuple[Reason, ...]:
        found = []
        members = min(result.members for result in self.unlearned)
        nonmembers = min(result.nonmembers for result in self.unlearned)
        # The products are compared with room for rounding: .01 x 1000 may fall short of 10.
        if nonmembers * fpr < NONMEMBERS_PER_FPR - 1e-6 or members * fpr < MEMBERS_PER_FPR - 1e-6:
            found.append(Reason.TOO_FEW_ROWS_FOR_FPR)
        if self._clustered():  # the bootstrap knows rows only
            found.append(Reason.CLUSTERS_IGNORED)
        return tuple(found)


def over_units(differences: Sequence[float]) -> IntervalAt:
    """Student t over units, at a level."""
    return lambda level: t_interval(differences, level)


def _row_difference(result: AttackResult, reference: AttackResult | None) -> IntervalAt:
    if reference is not None:
        return lambda level: result.difference_to(reference, level)
    return lambda level: _above_chance(result, level)


def _above_chance(result: AttackResult, level: float) -> Interval:
    members, nonmembers = result.member_scores, result.nonmember_scores
    area = auc_interval(members, nonmembers, level=level, clusters=_clusters(result))
    area = widened(area, result.auc.value, 0.0) if result.cross_fitted else area
    return replace(area, value=area.value - CHANCE, low=area.low - CHANCE, high=area.high - CHANCE)


def _tpr_at(results: Results, fpr: float) -> IntervalAt:
    if len(results) == 1:
        members, nonmembers = results[0].member_scores, results[0].nonmember_scores
        return lambda level: tpr_interval(members, nonmembers, fpr, level=level, draws=DRAWS)
    return over_units([tpr_at_fpr(r.member_scores, r.nonmember_scores, fpr) for r in results])


def _clusters(result: AttackResult) -> Any:
    """Persons of the rows, where the attack knows them."""
    return getattr(result, "clusters", None)
