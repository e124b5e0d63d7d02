"""Claims and their states: what is claimed, within which margin, by which interval, with which controls.

The state is the first that applies: NOT_EVALUABLE, VIOLATED (the Holm-adjusted interval lies wholly outside the
margin), HOLDS (the 90 % interval lies inside it), UNDECIDED. What is merely undecided because there are too few rows
or units to reach the margin is NOT_EVALUABLE too (S7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal

from amu_fast.audit import regions
from amu_fast.audit.controls import Control, shortfalls
from amu_fast.audit.intervals import MIN_UNITS, TOST_LEVEL, Interval
from amu_fast.audit.multiplicity import ALPHA, IntervalAt, IntervalTest, holm_intervals
from amu_fast.audit.reasons import Reason
from amu_fast.audit.regions import Side
from amu_fast.errors import DataError

Kind = Literal["auc", "tpr", "over_unlearning", "accuracy"]


class State(str, Enum):
    """Of a claim; the value is what documents hold."""

    NOT_EVALUABLE = "NOT_EVALUABLE"
    VIOLATED = "VIOLATED"
    HOLDS = "HOLDS"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True)
class Claim:
    """One claim and its state; `auc_claim` and the like make it, `resolve` settles it within its family.

    Attributes:
        name: unique in its family.
        kind: what it is about.
        margin: > 0, a fraction (S8).
        side: "both": -margin < x < margin; "at_least": x > -margin; "at_most": x < margin.
        required: whether the verdict rests on it.
        in_game: whether its attack was the game's auditor; None for claims without an attack.
        controls: of its attack.
        blockers: what keeps it from being evaluated, beside its interval.
        violable: on which sides it can be violated; a trained attack says nothing below its reference (S12).
        at: its interval at any level; None: not measured, or settled already.
        interval: 90 %.
        simultaneous: at the level at which Holm's procedure decided it.
        state: first that applies.
        reasons: codes that explain the state; none for HOLDS.
    """

    name: str
    kind: Kind
    margin: float
    side: Side = "both"
    required: bool = True
    in_game: bool | None = None
    controls: tuple[Control, ...] = ()
    blockers: tuple[Reason, ...] = ()
    violable: Side = "both"
    at: IntervalAt | None = field(default=None, repr=False, compare=False)
    interval: Interval | None = None
    simultaneous: Interval | None = None
    state: State = State.NOT_EVALUABLE
    reasons: tuple[Reason, ...] = (Reason.SKIPPED,)

    def __post_init__(self) -> None:
        if not (self.margin > 0 and math.isfinite(self.margin)):
            raise DataError(f"the margin of {self.name!r} must be > 0, got {self.margin}; fix it before the audit (S8)")

    @property
    def outside_control_passed(self) -> bool:
        """Whether it is an attack from outside the game that sees what is known to be there."""
        return self.in_game is False and any(c.kind == "positive" and c.passed for c in self.controls)

    def alone(self) -> Claim:
        """With the state that it has as the only claim of its family."""
        return self if self.at is None else self.settled(self.at(1.0 - ALPHA))

    def settled(self, simultaneous: Interval) -> Claim:
        """With its state, given its interval at the level that it has within its family."""
        if self.at is None:
            return self
        interval = self.at(TOST_LEVEL)
        state, reasons = self._state(interval, simultaneous)
        return replace(self, interval=interval, simultaneous=simultaneous, state=state, reasons=reasons)

    def violated_by(self, interval: Interval) -> bool:
        """Whether the interval lies wholly beyond a side on which the claim can be violated."""
        return all(regions.outside(interval, self.margin, side) for side in (self.side, self.violable))

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **{name: getattr(self, name) for name in ("name", "kind", "margin", "side", "required", "in_game")},
            "state": self.state.value,
            "reasons": [reason.value for reason in self.reasons],
            "interval": regions.plain(self.interval),
            "simultaneous": regions.plain(self.simultaneous),
            "controls": [
                {"kind": c.kind, "passed": c.passed, "interval": regions.plain(c.interval)} for c in self.controls
            ],
        }

    def _state(self, interval: Interval, simultaneous: Interval) -> tuple[State, tuple[Reason, ...]]:
        blockers = (*self.blockers, *_unusable(interval, simultaneous))
        if blockers:
            return State.NOT_EVALUABLE, tuple(dict.fromkeys(blockers))
        if self.violated_by(simultaneous):
            return State.VIOLATED, (self._violation(simultaneous),)
        if regions.inside(interval, self.margin, self.side):
            return State.HOLDS, ()
        if regions.outside(interval, self.margin, self.side) and not self.violated_by(interval):
            return State.UNDECIDED, (Reason.BELOW_REFERENCE,)
        if regions.too_wide(interval, self.margin, self.side):
            return State.NOT_EVALUABLE, (Reason.TOO_SMALL_FOR_MARGIN,)
        return State.UNDECIDED, (Reason.INTERVAL_CROSSES_MARGIN,)

    def _violation(self, interval: Interval) -> Reason:
        above = interval.low > 0
        if self.kind == "accuracy":
            return Reason.ACCURACY_ABOVE if above else Reason.ACCURACY_BELOW
        return Reason.LEAKS if above else Reason.OVER_UNLEARNED


def auc_claim(
    name: str,
    at: IntervalAt | None,
    margin: float,
    *,
    fixed_direction: bool,
    controls: Sequence[Control],
    in_game: bool = False,
    required: bool = True,
    blockers: Sequence[Reason] = (),
) -> Claim:
    """AUC equivalent to the reference's: |difference| < margin (S6, S7).

    Args:
        name: unique in its family.
        at: interval, at a level, of AUC minus the reference's, or minus .5 where S6 allows it; None: not measured.
        margin: of the AUC, a fraction.
        fixed_direction: False for a trained attack, which cannot violate the claim from below (S12).
        controls: positive and negative; one that failed or is missing makes the claim NOT_EVALUABLE (S11).
        in_game: whether the attack was the game's auditor.
        required: whether the verdict rests on it.
        blockers: further codes that make it NOT_EVALUABLE.
    """
    made = Claim(name, "auc", margin, "both", required, in_game, tuple(controls), tuple(blockers), at=at)
    return _attack_claim(replace(made, violable="both" if fixed_direction else "at_most"))


def over_unlearning_claim(
    name: str,
    at: IntervalAt | None,
    margin: float,
    *,
    controls: Sequence[Control],
    in_game: bool = False,
    required: bool = True,
    blockers: Sequence[Reason] = (),
) -> Claim:
    """Not over-unlearned: AUC minus the reference's > -margin, for a score of fixed direction on fresh rows (S12)."""
    made = Claim(name, "over_unlearning", margin, "at_least", required, in_game, tuple(controls), tuple(blockers))
    return _attack_claim(replace(made, at=at))


def tpr_claim(
    name: str,
    at: IntervalAt | None,
    bound: float,
    *,
    controls: Sequence[Control],
    in_game: bool = False,
    required: bool = True,
    blockers: Sequence[Reason] = (),
) -> Claim:
    """TPR at one FPR below a bound (S5); `at` gives the interval of the TPR itself, as do the controls."""
    made = Claim(name, "tpr", bound, "at_most", required, in_game, tuple(controls), tuple(blockers))
    return _attack_claim(replace(made, at=at))


def accuracy_claim(
    name: str,
    at: IntervalAt | None,
    margin: float,
    *,
    side: Side = "both",
    required: bool = True,
    blockers: Sequence[Reason] = (),
) -> Claim:
    """Accuracy minus the reference's: equivalent ("both") or non-inferior ("at_least")."""
    return Claim(name, "accuracy", margin, side, required, blockers=tuple(blockers), at=at).alone()


def resolve(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """The claims with their states, VIOLATED by Holm's procedure over all required ones; the others likewise.

    Claims that cannot be evaluated count in the family, so that leaving one out never helps another.
    """
    if len({c.name for c in claims}) != len(claims):
        raise DataError(f"claims must have different names, got {[c.name for c in claims]}")
    settled: dict[str, Claim] = {}
    for required in (True, False):
        family = [c.alone() for c in claims if c.required == required]
        steps = holm_intervals([_tested(c) for c in family])
        settled |= {c.name: c if s is None else c.settled(s.interval) for c, s in zip(family, steps, strict=True)}
    return tuple(settled[c.name] for c in claims)


def _tested(claim: Claim) -> IntervalTest | None:
    """A claim that cannot be evaluated counts without being tested."""
    if claim.at is None or claim.state is State.NOT_EVALUABLE:
        return None
    return IntervalTest(claim.at, claim.violated_by)


def _attack_claim(made: Claim) -> Claim:
    return replace(made, blockers=(*made.blockers, *shortfalls(made.controls))).alone()


def _unusable(*intervals: Interval) -> list[Reason]:
    found = []
    if not all(math.isfinite(x) for i in intervals for x in (i.value, i.low, i.high)):
        found.append(Reason.NOT_A_NUMBER)
    if any(i.scope == "the algorithm" and i.sizes[0] < MIN_UNITS for i in intervals):
        found.append(Reason.TOO_FEW_UNITS)
    return found
