"""What a certificate may not say: contradictions within it, refused when it is issued and found when it is verified."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath

from amu_fast.certificate.canonical import DIGITS
from amu_fast.certificate.document import CERTIFICATE_FILE, Certificate, ClaimRecord, Content, Estimate, PolicyRecord
from amu_fast.certificate.records import Unknown

LATE_POLICY = "policy_after_audit"
_VERDICT_PREFIX = "a verdict of"
# Both sides of a comparison are rounded to DIGITS digits.
_TOLERANCE = 1.5 * 10.0**-DIGITS


def contradictions(certificate: Certificate) -> tuple[str, ...]:
    """Each contradiction in one phrase; none for a sound certificate."""
    return (*content_contradictions(certificate), *_chain(certificate), *_manifest(certificate))


def content_contradictions(content: Content) -> tuple[str, ...]:
    """Those of policy and verdict."""
    policy = content.policy
    if isinstance(policy, Unknown):
        if content.verdict.outcome != "inconclusive":
            return (f"{_VERDICT_PREFIX} {content.verdict.outcome} needs a policy",)
        return () if content.verdict.reasons else ("an inconclusive verdict gives no reason",)
    return (*_policy(policy), *_verdict(content, policy))


def _policy(record: PolicyRecord) -> Iterator[str]:
    if record.policy.policy_hash != record.policy_hash:
        yield f"the policy's hash is {record.policy.policy_hash}, not {record.policy_hash}: it was edited"
    if record.policy.written_at > record.audited_at:
        yield f"{LATE_POLICY}: the policy is of {record.policy.written_at}, the audit of {record.audited_at}"


def _verdict(content: Content, record: PolicyRecord) -> Iterator[str]:
    """The rows of the verdict's table that the certificate alone can check."""
    verdict = content.verdict
    required = [claim for claim in verdict.claims if claim.required]
    margins = {claim.name: claim.margin for claim in record.policy.required}
    if len({claim.name for claim in verdict.claims}) != len(verdict.claims):
        yield "a claim occurs twice"
    for claim in verdict.claims:
        yield from _claim(claim)
    judged = {claim.name: claim.margin for claim in required}
    if judged and (judged.keys() != margins.keys() or any(abs(judged[n] - margins[n]) > _TOLERANCE for n in judged)):
        yield f"the claims judged, {judged}, are not those that the policy requires, {margins}"
    violated = any(claim.state == "VIOLATED" for claim in required)
    if violated != (verdict.outcome == "fails"):
        yield f"{_VERDICT_PREFIX} {verdict.outcome} with {'a' if violated else 'no'} required claim violated"
    if verdict.outcome == "meets_policy":
        if not required:
            yield f"{_VERDICT_PREFIX} meets_policy without a required claim"
        open_claims = sorted(claim.name for claim in required if claim.state != "HOLDS")
        if open_claims:
            yield f"{_VERDICT_PREFIX} meets_policy although {', '.join(open_claims)} does not hold"
        if content.reference.kind not in record.policy.references:
            yield f"{_VERDICT_PREFIX} meets_policy against a reference it does not allow: {content.reference.kind}"
    if not verdict.reasons:
        yield f"{_VERDICT_PREFIX} {verdict.outcome} gives no reason"


def _claim(claim: ClaimRecord) -> Iterator[str]:
    """A claim holds by an interval inside its margin, and is violated by one wholly beyond it."""
    if claim.state == "HOLDS":
        low, high = _ends(claim.interval)
        floor = claim.side == "at_most" or low > -claim.margin - _TOLERANCE
        if not floor or not (claim.side == "at_least" or high < claim.margin + _TOLERANCE):
            yield f"{claim.name} is said to hold, but its interval is not inside its margin"
    if claim.state == "VIOLATED":
        low, high = _ends(claim.simultaneous)
        below = claim.side != "at_most" and high < -claim.margin + _TOLERANCE
        if not below and not (claim.side != "at_least" and low > claim.margin - _TOLERANCE):
            yield f"{claim.name} is said to be violated, but its interval is not beyond its margin"


def _ends(estimate: Estimate | Unknown) -> tuple[float, float]:
    """Both ends; NaN, which compares with nothing, for those that are not known."""
    if isinstance(estimate, Unknown):
        return math.nan, math.nan
    low, high = (math.nan if isinstance(end, Unknown) else end for end in (estimate.low, estimate.high))
    return low, high


def _chain(certificate: Certificate) -> Iterator[str]:
    if certificate.decimal_digits != DIGITS:
        yield f"decimals have {DIGITS} digits, not {certificate.decimal_digits}"
    if certificate.sequence < 0 or (certificate.sequence == 0) != isinstance(certificate.previous, Unknown):
        yield f"number {certificate.sequence} of a chain with previous = {certificate.previous}; only number 0 has none"


def _manifest(certificate: Certificate) -> Iterator[str]:
    paths = [entry.path for entry in certificate.manifest]
    if paths != sorted(set(paths)):
        yield "the manifest is not sorted by path, each once"
    for path in paths:
        fault = path_fault(path)
        if fault:
            yield fault
    if any(entry.size < 0 for entry in certificate.manifest):
        yield "the manifest has a negative size"
    after = certificate.models.after
    listed = {(entry.path, entry.sha256) for entry in certificate.manifest}
    if not isinstance(after, Unknown) and not {(file.name, file.file_sha256) for file in after.files} <= listed:
        yield "the files of the model after are not those of the manifest"


def path_fault(path: str) -> str | None:
    """Why a manifest may not list this path, which is relative to the folder and has slashes."""
    pure = PurePosixPath(path)
    plain = bool(pure.parts) and str(pure) == path and not pure.is_absolute() and not {"..", "."} & set(pure.parts)
    if not plain or any(c in path for c in "\\:\0"):
        return f"{path!r} is no plain path below the folder"
    if not unicodedata.is_normalized("NFC", path):
        return f"{path!r} is not in Unicode's form NFC"
    return f"{CERTIFICATE_FILE} cannot list itself" if path == CERTIFICATE_FILE else None
