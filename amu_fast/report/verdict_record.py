"""A verdict as a report holds it: plain, with its thresholds and every reason in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from amu_fast.audit.intervals import Interval
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.audit.claims import Claim
    from amu_fast.audit.verdict import Verdict

Outcome = Literal["meets_policy", "fails", "inconclusive", "no_certificate"]
State = Literal["HOLDS", "VIOLATED", "UNDECIDED", "NOT_EVALUABLE"]
Side = Literal["both", "at_least", "at_most"]


@dataclass(frozen=True)
class ReasonRecord:
    """Why a claim is in its state, or the verdict what it is.

    Attributes:
        code: stable, for machines.
        sentence: the same for people.
    """

    code: str
    sentence: str


@dataclass(frozen=True)
class ClaimRecord:
    """One claim about the model, its evidence and its state.

    Attributes:
        name: unique within the verdict.
        kind: what it is about, as "auc", "tpr", "over_unlearning" or "accuracy".
        state: HOLDS, VIOLATED, UNDECIDED or NOT_EVALUABLE.
        margin: > 0, a fraction, fixed before the audit.
        side: of the margin m on which x must lie: "both" -m < x < m, "at_least" x > -m, "at_most" x < m.
        required: whether the verdict rests on it.
        in_game: whether its attack was the game's auditor; None for claims without an attack.
        interval: 90 % interval of x; None where it was not measured.
        simultaneous: interval at the level at which Holm's procedure decided; None where it was not measured.
        reasons: why it is in this state; none where it holds.
    """

    name: str
    kind: str
    state: State
    margin: float
    side: Side
    required: bool
    in_game: bool | None
    interval: Interval | None
    simultaneous: Interval | None
    reasons: tuple[ReasonRecord, ...] = ()

    @staticmethod
    def of(claim: Claim) -> ClaimRecord:
        """From a settled claim."""
        return ClaimRecord(
            name=claim.name,
            kind=claim.kind,
            state=claim.state.value,
            margin=claim.margin,
            side=claim.side,
            required=claim.required,
            in_game=claim.in_game,
            interval=claim.interval,
            simultaneous=claim.simultaneous,
            reasons=tuple(ReasonRecord(reason.value, reason.sentence) for reason in claim.reasons),
        )


@dataclass(frozen=True)
class VerdictRecord:
    """The verdict by docs/statistics.md.

    Attributes:
        outcome: in one word.
        exit_code: of a command that gates on it.
        reasons: at least one.
        thresholds: name to value, as fractions, fixed before the audit.
        claims: all of them, required or not.
    """

    outcome: Outcome
    exit_code: int
    reasons: tuple[ReasonRecord, ...]
    thresholds: Mapping[str, float]
    claims: tuple[ClaimRecord, ...]

    def __post_init__(self) -> None:
        if not self.reasons:
            raise DataError(
                f"the verdict {self.outcome!r} needs at least one reason; pass reasons=(ReasonRecord(...),)"
            )

    @staticmethod
    def of(verdict: Verdict, thresholds: Mapping[str, float]) -> VerdictRecord:
        """From a verdict and the margins it was reached with."""
        return VerdictRecord(
            outcome=verdict.outcome,
            exit_code=verdict.exit_code,
            reasons=tuple(map(ReasonRecord, verdict.reasons, verdict.sentences)),
            thresholds=dict(thresholds),
            claims=tuple(ClaimRecord.of(claim) for claim in verdict.claims),
        )

    def to_plain(self) -> dict[str, Any]:
        """The verdict as its own `to_plain()` gives it: codes without sentences, for `amu-fast certify --verdict`."""
        return {
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "reasons": [reason.code for reason in self.reasons],
            "claims": [
                {
                    **{f.name: getattr(claim, f.name) for f in fields(claim) if f.name not in _NESTED},
                    "reasons": [reason.code for reason in claim.reasons],
                    "interval": _interval(claim.interval),
                    "simultaneous": _interval(claim.simultaneous),
                }
                for claim in self.claims
            ],
        }


_NESTED = ("reasons", "interval", "simultaneous", "in_game")


def _interval(interval: Interval | None) -> dict[str, Any] | None:
    """With null where there is no number."""
    if interval is None:
        return None
    plain = asdict(interval)
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}
