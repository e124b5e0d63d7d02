"""What a verdict is judged by, fixed before anything is measured (S8).

A policy is sealed when it is written: its file holds the time and the SHA-256 of its canonical form. A file that was
edited afterwards no longer fits its seal, and a policy written after the audit gives no certificate.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from amu_fast.certificate.canonical import DIGITS, canonical_bytes, parse, sha256
from amu_fast.certificate.records import Instant, decode, encode
from amu_fast.errors import DataError
from amu_fast.report.writing import write_atomic

SCHEMA = "amu-policy/1"

ReferenceKind = Literal["retrained", "proxy", "none"]


def now() -> str:
    """This machine's time in UTC, to the second; nothing proves that its clock is right."""
    return instant(datetime.now(timezone.utc).timestamp())


def instant(seconds: float) -> str:
    """Seconds since 1970 as UTC text.

    >>> instant(0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, kw_only=True)
class RequiredClaim:
    """A claim that must hold, and within which margin.

    Attributes:
        name: As the verdict names it.
        margin: Largest difference that counts as none, in the metric's own units (AUC and shares: 0 to 1).
    """

    name: str
    margin: float

    def __post_init__(self) -> None:
        smallest = 10.0**-DIGITS
        if not smallest <= self.margin < float("inf"):
            raise DataError(f"the margin of {self.name!r} must be at least {smallest:g} and finite, got {self.margin}")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What must hold for `meets_policy`.

    Attributes:
        name: Of the policy and its version.
        required: Claims that must all hold; none gives `inconclusive`, never a pass.
        references: Kinds of reference that may be judged against (S6).
        written_at: When it was fixed, in UTC; `Policy.create` fills it in.
        note: Where the margins come from.
    """

    name: str
    required: tuple[RequiredClaim, ...]
    references: tuple[ReferenceKind, ...] = ("retrained",)
    written_at: Instant
    note: str = ""

    def __post_init__(self) -> None:
        names = [claim.name for claim in self.required]
        if len(set(names)) != len(names):
            raise DataError(f"every required claim must have its own name, got {names}")

    @staticmethod
    def create(
        name: str,
        margins: dict[str, float],
        *,
        references: tuple[ReferenceKind, ...] = ("retrained",),
        note: str = "",
    ) -> Policy:
        """A policy written now, from claim to margin."""
        required = tuple(RequiredClaim(name=claim, margin=float(margin)) for claim, margin in margins.items())
        return Policy(name=name, required=required, references=references, written_at=now(), note=note)

    @property
    def policy_hash(self) -> str:
        """SHA-256 of the canonical form."""
        return sha256(canonical_bytes(self._body()))

    def save(self, path: str | Path) -> Path:
        """Write it with its seal."""
        return write_atomic(path, canonical_bytes({**self._body(), "policy_hash": self.policy_hash}))

    @staticmethod
    def load(path: str | Path) -> Policy:
        """Read a sealed policy.

        Raises:
            DataError: It cannot be read, or was edited after it was sealed.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise DataError(
                f"cannot read {path}: {error.strerror or error}; Policy.create(...).save(path) writes one"
            ) from error
        body = parse(data)
        seal = body.pop("policy_hash", None)
        if body.pop("schema", None) != SCHEMA:
            raise DataError(f"{path} is not an {SCHEMA} document; Policy.create(...).save(path) writes one")
        policy = decode(Policy, body, {})
        if seal != policy.policy_hash:
            raise DataError(
                f"{path} was edited after it was sealed: its hash is {policy.policy_hash}, its seal {seal}; write "
                "a new policy, before the audit"
            )
        return policy

    def _body(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **encode(self)[0]}
