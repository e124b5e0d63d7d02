"""The certificate as frozen dataclasses: what is recorded of a request, a run, its tests and what remains.

A process record, test evidence and a statement of residual risk. It never says that data are gone (weights alone cannot
show it: Thudi et al., arXiv 2110.11891), nor that a law is obeyed. Floats become decimals, what is not known is
`Unknown(reason)`; see `canonical` and `records`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from amu_fast.certificate.canonical import DIGITS
from amu_fast.certificate.models import ModelHashes
from amu_fast.certificate.policy import Policy, ReferenceKind
from amu_fast.certificate.records import Code, Date, Hash, Instant, Pattern, Unknown, Whole, encode
from amu_fast.certificate.statements import CANNOT_ESTABLISH, ESTABLISHES

SCHEMA = "amu-erasure/1"
CERTIFICATE_FILE = "certificate.json"

SignatureValue = Annotated[str, Pattern("[0-9a-f]{128}")]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Who asked, as keyed ids; on what basis, and when."""

    ids: tuple[Hash, ...]
    basis: str | Unknown
    received: Date | Unknown
    completed: Date | Unknown


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """The records to be forgotten: how many, and the root of their salted Merkle tree."""

    count: int
    merkle_root: Hash


@dataclass(frozen=True, kw_only=True)
class DataHash:
    """Hash of one part's rows; keyed (HMAC) where the part is small enough to be guessed."""

    part: str
    sha256: Hash
    keyed: bool


@dataclass(frozen=True, kw_only=True)
class Models:
    """The model before and after."""

    before: ModelHashes | Unknown
    after: ModelHashes | Unknown


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """How the model after came from the model before."""

    kind: Literal["exact", "approximate"] | Unknown
    method: str
    paper: str | Unknown
    config_sha256: Hash
    seed: Whole
    code_version: str
    commit: str | Unknown
    dependencies: Mapping[str, str]
    hardware: str
    threads: int
    backends: tuple[str, ...]
    steps: int
    seconds: float | Unknown
    gradient_samples: float | Unknown
    stopped_early: bool
    started: Instant | Unknown
    finished: Instant | Unknown


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its interval, which names what it is conditional on (S1)."""

    value: float | Unknown
    low: float | Unknown
    high: float | Unknown
    level: float
    scope: str
    method: str
    sizes: tuple[int, ...]
    note: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One metric of utility or robustness."""

    name: str
    estimate: Estimate | Unknown


@dataclass(frozen=True, kw_only=True)
class Rate:
    """True-positive rate at one false-positive rate."""

    fpr: float
    tpr: Estimate


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Where an attack's scores are stored: a file of the manifest, tensors NAME/members and NAME/nonmembers."""

    file: str


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What one attack found, and how it was set up."""

    attack: str
    threat_model: str | Unknown
    in_game: bool
    members: int
    nonmembers: int
    auc: Estimate
    tpr_at_fpr: tuple[Rate, ...]
    auc_minus_reference: Estimate | Unknown
    controls: str | Unknown
    scores: Scores | Unknown


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the audits were compared with (S6)."""

    kind: ReferenceKind
    detail: str


@dataclass(frozen=True, kw_only=True)
class Disposal:
    """What became of one kind of copy; the controller's own word, which no hash can check."""

    item: str
    state: Literal["deleted", "kept", "never_made"] | Unknown
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class PolicyRecord:
    """The policy in full, its hash, and when what it judges was measured."""

    policy: Policy
    policy_hash: Hash
    audited_at: Instant
    clock: str


@dataclass(frozen=True, kw_only=True)
class ClaimRecord:
    """State of one claim, and the intervals that decided it."""

    name: str
    kind: str
    side: Literal["both", "at_least", "at_most"]
    margin: float
    required: bool
    state: Literal["HOLDS", "VIOLATED", "UNDECIDED", "NOT_EVALUABLE"]
    reasons: tuple[Code, ...]
    interval: Estimate | Unknown
    simultaneous: Estimate | Unknown


@dataclass(frozen=True, kw_only=True)
class VerdictRecord:
    """The verdict by the rules of `docs/statistics.md`, with its reason codes."""

    outcome: Literal["meets_policy", "fails", "inconclusive"]
    reasons: tuple[Code, ...]
    claims: tuple[ClaimRecord, ...]


@dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """One file of the folder."""

    path: str
    size: int
    sha256: Hash


@dataclass(frozen=True, kw_only=True)
class Content:
    """What is certified. `issue` adds the manifest, the place in the chain and the signature."""

    request: Request | Unknown
    subjects: Subjects | Unknown
    data: tuple[DataHash, ...] | Unknown
    models: Models
    procedure: Procedure | Unknown
    utility: tuple[Measured, ...] | Unknown
    audits: tuple[Audit, ...] | Unknown
    reference: Reference
    robustness: tuple[Measured, ...] | Unknown
    disposal: tuple[Disposal, ...]
    residual_risk: tuple[str, ...]
    limitations: tuple[str, ...]
    policy: PolicyRecord | Unknown
    verdict: VerdictRecord


@dataclass(frozen=True, kw_only=True)
class Certificate(Content):
    """The body: the content, and what binds it to files, to its predecessor and to its signer."""

    schema: Literal["amu-erasure/1"] = "amu-erasure/1"
    decimal_digits: int = DIGITS
    issued_at: Instant
    sequence: int
    previous: Hash | Unknown
    signer: Hash | Unknown
    manifest: tuple[ManifestEntry, ...]
    establishes: tuple[str, ...] = ESTABLISHES
    cannot_establish: tuple[str, ...] = CANNOT_ESTABLISH

    def body(self) -> dict[str, Any]:
        """Plain value, with the reasons of its nulls in `undefined`."""
        value, undefined = encode(self)
        return {**value, "undefined": undefined}


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Over the content hash; the key that checks it comes from the verifier."""

    algorithm: Literal["Ed25519"]
    key_id: Hash
    value: SignatureValue
