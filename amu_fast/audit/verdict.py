"""The verdict: the first row of the table in `docs/statistics.md` that applies, with the codes of all that do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from amu_fast.audit.claims import Claim, State, resolve
from amu_fast.audit.intervals import Interval
from amu_fast.audit.multiplicity import intersection_union
from amu_fast.audit.reasons import Reason
from amu_fast.audit.regions import inside

Outcome = Literal["meets_policy", "fails", "inconclusive", "no_certificate"]
Reference = Literal["retrained", "proxy", "none"]

EXIT_CODES: dict[Outcome, int] = {"meets_policy": 0, "fails": 1, "no_certificate": 2, "inconclusive": 3}


@dataclass(frozen=True)
class ChanceProof:
    """Why .5 may stand for the reference (S6): a random draw, or two measurements that exclude a shift.

    Attributes:
        random_draw: the forget set was drawn at random from the non-members' own distribution.
        outsider: 90 % interval of the AUC, minus .5, of a reference model that saw neither forget nor test rows.
        model_free: 90 % interval of the AUC, minus .5, of an attack on the inputs alone.
    """

    random_draw: bool = False
    outsider: Interval | None = None
    model_free: Interval | None = None

    def proven(self, margin: float) -> bool:
        """Whether .5 may be used with this margin on the AUC."""
        if self.random_draw:
            return True
        measured = [interval for interval in (self.outsider, self.model_free) if interval is not None]
        return len(measured) == 2 and all(inside(interval, margin, "both") for interval in measured)


@dataclass(frozen=True)
class Conditions:
    """What the verdict rests on beside the claims.

    Attributes:
        splits_overlap: two parts share rows.
        reference_saw_forget_rows: a judging or calibrating reference was trained on forget rows.
        policy_after_audit: margins were written, or changed, after the audit.
        file_damaged: a file of the audit is damaged.
        reference: what the claims are compared with; "proxy" is a model trained in another way than the original.
        allowed: references that the policy allows.
        chance_proven: with reference = "none": whether S6 allows .5, see `ChanceProof`.
    """

    splits_overlap: bool = False
    reference_saw_forget_rows: bool = False
    policy_after_audit: bool = False
    file_damaged: bool = False
    reference: Reference = "retrained"
    allowed: tuple[Reference, ...] = ("retrained",)
    chance_proven: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the claims amount to.

    Attributes:
        outcome: "meets_policy", "fails", "inconclusive" or "no_certificate".
        reasons: codes of every row of the table that applies, the deciding one's first, with the codes of its claims.
        claims: settled, the required ones as one family.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    claims: tuple[Claim, ...]

    @property
    def exit_code(self) -> int:
        """0 meets_policy, 1 fails, 2 no_certificate, 3 inconclusive."""
        return EXIT_CODES[self.outcome]

    @property
    def sentences(self) -> tuple[str, ...]:
        """One sentence per reason."""
        return tuple(Reason[code.upper()].sentence for code in self.reasons)

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "reasons": list(self.reasons),
            "claims": [claim.to_plain() for claim in self.claims],
        }


def decide(claims: Sequence[Claim], conditions: Conditions | None = None) -> Verdict:
    """Settle the claims as a family and take the first row of the table that applies.

    Beyond the table's letter: as S12 is a required claim, no verdict is better than `inconclusive` without one.

    Args:
        claims: required and others, with different names.
        conditions: the rest; None: a retrained reference and nothing amiss.

    Returns:
        The verdict, its claims in the order given.
    """
    settled = resolve(claims)
    rows = _rows(tuple(claim for claim in settled if claim.required), conditions or Conditions())
    applying = [(outcome, codes) for outcome, codes in rows if codes]
    codes = dict.fromkeys(code.value for _, row in applying for code in row)
    return Verdict(applying[0][0], tuple(codes), settled)


def _rows(required: tuple[Claim, ...], conditions: Conditions) -> list[tuple[Outcome, tuple[Reason, ...]]]:
    """The table, each row with the codes for which it applies."""
    met = bool(required) and intersection_union([claim.state is State.HOLDS for claim in required])
    return [
        ("no_certificate", _invalid(conditions)),
        ("fails", _with_codes(required, State.VIOLATED, Reason.CLAIM_VIOLATED)),
        ("inconclusive", _nothing_shown(required)),
        ("inconclusive", _with_codes(required, State.NOT_EVALUABLE, Reason.CLAIM_NOT_EVALUABLE)),
        ("inconclusive", _with_codes(required, State.UNDECIDED, Reason.CLAIM_UNDECIDED)),
        ("inconclusive", _reference(conditions)),
        ("meets_policy", (Reason.ALL_CLAIMS_HOLD,) if met else ()),
    ]


def _invalid(conditions: Conditions) -> tuple[Reason, ...]:
    found = {
        Reason.SPLITS_OVERLAP: conditions.splits_overlap,
        Reason.REFERENCE_SAW_FORGET_ROWS: conditions.reference_saw_forget_rows,
        Reason.POLICY_AFTER_AUDIT: conditions.policy_after_audit,
        Reason.FILE_DAMAGED: conditions.file_damaged,
    }
    return tuple(code for code, applies in found.items() if applies)


def _nothing_shown(required: tuple[Claim, ...]) -> tuple[Reason, ...]:
    found = {
        Reason.NO_REQUIRED_CLAIM: not required,
        Reason.NO_OUTSIDE_ATTACK: not any(claim.outside_control_passed for claim in required),
        Reason.NO_OVER_UNLEARNING_CLAIM: not any(claim.kind == "over_unlearning" for claim in required),
    }
    return tuple(code for code, applies in found.items() if applies)


def _with_codes(required: tuple[Claim, ...], state: State, code: Reason) -> tuple[Reason, ...]:
    concerned = [claim for claim in required if claim.state is state]
    return (code, *(reason for claim in concerned for reason in claim.reasons)) if concerned else ()


def _reference(conditions: Conditions) -> tuple[Reason, ...]:
    unproven = conditions.reference == "none" and not conditions.chance_proven
    refused = conditions.reference not in conditions.allowed
    found = {Reason.REFERENCE_NOT_ALLOWED: refused, Reason.REFERENCE_UNPROVEN: unproven}
    return tuple(code for code, applies in found.items() if applies)
