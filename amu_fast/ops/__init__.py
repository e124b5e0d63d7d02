"""Operators: schemas, references, gradients; compiled kernels come in through `amu_fast.backends`.

Importing any module of this package defines every operator and then loads the extension, in this order.
"""

from amu_fast import backends
from amu_fast.ops import auditor_step, glm, glm_curvature, glm_mixed, glm_multi, score_moments, spd, vectors
from amu_fast.ops.schemas import NAMESPACE, SCHEMAS, fingerprint

backends.load([f"{NAMESPACE}::{name}" for name in SCHEMAS], f"{NAMESPACE}::{fingerprint()}")

__all__ = ["auditor_step", "glm", "glm_curvature", "glm_mixed", "glm_multi", "score_moments", "spd", "vectors"]
