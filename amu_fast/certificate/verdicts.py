"""A verdict as a certificate records it: from whatever object judged, from its JSON, or from nothing at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from amu_fast.certificate.document import ClaimRecord, PolicyRecord, Reference, VerdictRecord
from amu_fast.certificate.estimates import estimate_of
from amu_fast.certificate.records import Unknown
from amu_fast.errors import DataError

EXIT_CODES = {"meets_policy": 0, "fails": 1, "no_certificate": 2, "inconclusive": 3}
"""The verdict's own exit codes (docs/statistics.md)."""


class VerdictLike(Protocol):
    """What a judge hands back; its claims have the attributes of `StoredClaim`, enums in place of text if they like."""

    @property
    def outcome(self) -> str:
        """One of the keys of `EXIT_CODES`."""

    @property
    def exit_code(self) -> int:
        """Its exit code."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reason codes."""

    @property
    def claims(self) -> Sequence[Any]:
        """Judged claims."""


@dataclass(frozen=True)
class StoredInterval:
    """An interval in a verdict's JSON; null where there was no number."""

    value: float | None
    low: float | None
    high: float | None
    level: float
    scope: str
    method: str
    sizes: tuple[int, ...]
    note: str = ""


@dataclass(frozen=True)
class StoredClaim:
    """One judged claim.

    Attributes:
        name: As the policy names it.
        kind: What it is about.
        side: "both": -margin < x < margin; "at_least": x > -margin; "at_most": x < margin.
        margin: A fraction.
        required: Whether the verdict rests on it.
        state: HOLDS, VIOLATED, UNDECIDED or NOT_EVALUABLE.
        reasons: Codes that explain the state.
        interval: 90 %, by which a claim holds.
        simultaneous: Holm's, by which it is violated.
    """

    name: str
    kind: str
    side: str
    margin: float
    required: bool
    state: str
    reasons: tuple[str, ...] = ()
    interval: StoredInterval | None = None
    simultaneous: StoredInterval | None = None


@dataclass(frozen=True)
class StoredVerdict:
    """A verdict from its JSON."""

    outcome: str
    exit_code: int
    reasons: tuple[str, ...]
    claims: tuple[StoredClaim, ...]


def read_verdict(path: str | Path) -> StoredVerdict:
    """Read a verdict that its `to_plain()` and `json.dumps` wrote.

    Raises:
        DataError: It cannot be read, or is none.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(StoredVerdict).validate_json(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except ValidationError as error:
        raise DataError(f"{path} is no verdict: {error}") from error


def record_verdict(verdict: VerdictLike) -> VerdictRecord:
    """The verdict as it goes into a certificate.

    Raises:
        DataError: It is `no_certificate`, or not one at all.
    """
    outcome, reasons = str(verdict.outcome), tuple(map(_plain, verdict.reasons))
    if EXIT_CODES.get(outcome) != verdict.exit_code:
        raise DataError(f"no verdict has the outcome {outcome!r} and exit code {verdict.exit_code}; see {EXIT_CODES}")
    if outcome == "no_certificate":
        raise DataError(f"no certificate: {', '.join(reasons)}")
    claims = tuple(map(_record, verdict.claims))
    return VerdictRecord(outcome=outcome, reasons=reasons, claims=claims)  # type: ignore[arg-type]


def no_verdict(policy: PolicyRecord | Unknown, reference: Reference) -> VerdictRecord:
    """`inconclusive`, with the codes of why: nothing was judged."""
    reasons = []
    if isinstance(policy, Unknown):
        reasons.append("no_policy")
    if isinstance(policy, Unknown) or not policy.policy.required:
        reasons.append("no_required_claim")
    else:
        reasons.append("claims_not_judged")
        if reference.kind not in policy.policy.references:
            reasons.append("reference_not_allowed")
    return VerdictRecord(outcome="inconclusive", reasons=tuple(reasons), claims=())


def _record(claim: Any) -> ClaimRecord:
    absent = Unknown("the claim has no interval")
    return ClaimRecord(
        name=claim.name,
        kind=claim.kind,
        side=claim.side,
        margin=float(claim.margin),
        required=claim.required,
        state=_plain(claim.state),
        reasons=tuple(map(_plain, claim.reasons)),
        interval=absent if claim.interval is None else estimate_of(claim.interval),
        simultaneous=absent if claim.simultaneous is None else estimate_of(claim.simultaneous),
    )


def _plain(text: Any) -> Any:
    """Of a string, or of an enum whose values are strings."""
    return str(getattr(text, "value", text))
