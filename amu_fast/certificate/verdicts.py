"""A verdict as a certificate records it, from whatever object judged, or from nothing at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from amu_fast.certificate.document import ClaimRecord, PolicyRecord, Reference, VerdictRecord
from amu_fast.certificate.records import Unknown
from amu_fast.errors import DataError

EXIT_CODES = {"meets_policy": 0, "fails": 1, "no_certificate": 2, "inconclusive": 3}
"""The verdict's own exit codes (docs/statistics.md)."""


class ClaimLike(Protocol):
    """One judged claim: a name, and a state among HOLDS, VIOLATED, UNDECIDED and NOT_EVALUABLE, as text or enum."""

    @property
    def name(self) -> str:
        """As the policy names it."""

    @property
    def state(self) -> Any:
        """State."""


class VerdictLike(Protocol):
    """What a judge hands back."""

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
    def claims(self) -> Sequence[ClaimLike]:
        """Judged claims."""


def record_verdict(verdict: VerdictLike) -> VerdictRecord:
    """The verdict as it goes into a certificate.

    Raises:
        DataError: It is `no_certificate`, or not one at all.
    """
    outcome = str(verdict.outcome)
    if EXIT_CODES.get(outcome) != verdict.exit_code:
        raise DataError(f"no verdict has the outcome {outcome!r} and exit code {verdict.exit_code}; see {EXIT_CODES}")
    if outcome == "no_certificate":
        raise DataError(f"no certificate: {', '.join(verdict.reasons)}")
    claims = tuple(ClaimRecord(name=claim.name, state=_state(claim.state)) for claim in verdict.claims)
    return VerdictRecord(outcome=outcome, reasons=tuple(verdict.reasons), claims=claims)  # type: ignore[arg-type]


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


def _state(state: Any) -> Any:
    return str(getattr(state, "name", state)).upper()
