"""The erasure certificate, `amu-erasure/1`: a signed record of a request, a run, its tests and what remains."""

from amu_fast.certificate.checks import Check, Outcome
from amu_fast.certificate.collect import Sources, collect
from amu_fast.certificate.document import CERTIFICATE_FILE, SCHEMA, Certificate, Content
from amu_fast.certificate.facts import Facts
from amu_fast.certificate.ids import Sidecar
from amu_fast.certificate.issuing import Issued, issue
from amu_fast.certificate.merkle import InclusionProof
from amu_fast.certificate.models import ModelHashes, file_sha256, hash_model, tensor_digest
from amu_fast.certificate.policy import Policy, RequiredClaim
from amu_fast.certificate.records import Unknown
from amu_fast.certificate.schema import json_schema
from amu_fast.certificate.scores import save_scores
from amu_fast.certificate.signing import SigningKey, Trust, generate_key, load_key
from amu_fast.certificate.statements import CANNOT_ESTABLISH, ESTABLISHES
from amu_fast.certificate.verdicts import VerdictLike, read_verdict
from amu_fast.certificate.verify import Verification, verify

__all__ = [
    "CANNOT_ESTABLISH",
    "CERTIFICATE_FILE",
    "Certificate",
    "Check",
    "Content",
    "ESTABLISHES",
    "Facts",
    "InclusionProof",
    "Issued",
    "ModelHashes",
    "Outcome",
    "Policy",
    "RequiredClaim",
    "SCHEMA",
    "Sidecar",
    "SigningKey",
    "Sources",
    "Trust",
    "Unknown",
    "Verification",
    "VerdictLike",
    "collect",
    "file_sha256",
    "generate_key",
    "hash_model",
    "issue",
    "json_schema",
    "load_key",
    "read_verdict",
    "save_scores",
    "tensor_digest",
    "verify",
]
