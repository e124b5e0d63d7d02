"""Schemas of every operator, in one place: C++ and Python agree on them or the extension refuses to load.

The boxed calling convention checks only the number of arguments, so a changed schema under an old binary would
read the wrong types. The fingerprint of this table is therefore compiled into the extension as the name of an
operator (`amu_fast::schemas_<fingerprint>`), and `amu_fast.backends` looks for it after loading.

This module imports nothing but the standard library: `setup.py` runs it without installing the package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType

NAMESPACE = "amu_fast"

#: Operator name -> its arguments and results in the dispatcher's schema language.
SCHEMAS: Mapping[str, str] = MappingProxyType(
    {
        "glm_hvp": "(Tensor x, Tensor c, Tensor v, float l2, bool intercept) -> Tensor",
        "glm_hvp_multi": "(Tensor x, Tensor c, Tensor v, float l2, bool intercept) -> Tensor",
        "glm_gradient_curvature": (
            "(Tensor x, Tensor y, Tensor t, Tensor w, int loss, float l2, float width, bool intercept) -> "
            "(Tensor objective, Tensor gradient, Tensor c, Tensor diagonal)"
        ),
        "glm_mixed_vjp": (
            "(Tensor x, Tensor y, Tensor t, Tensor w, Tensor u, int loss, float width, bool intercept) -> Tensor"
        ),
        "spd_solve": "(Tensor matrix, Tensor rhs) -> (Tensor solution, Tensor info)",
        "multi_dot": "(Tensor a, Tensor b) -> Tensor",
        "_cg_direction": (
            "(Tensor r, Tensor z, Tensor(a!) p, Tensor(b!) rz, Tensor(c!) restart, Tensor running) -> ()"
        ),
        "_cg_update": (
            "(Tensor p, Tensor hp, Tensor rz, Tensor running, Tensor(a!) y, Tensor(b!) r) -> "
            "(Tensor curvature, Tensor size)"
        ),
        "_neumann_step": ("(Tensor b, Tensor hy, Tensor eta, Tensor running, Tensor(a!) y, Tensor(b!) r) -> Tensor"),
        "score_moments": (
            "(Tensor logits, Tensor labels) -> (Tensor loss, Tensor mean_log_p, Tensor variance_log_p, "
            "Tensor margin, Tensor log_normaliser, Tensor runner_up)"
        ),
        "score_moments_backward": (
            "(Tensor logits, Tensor labels, Tensor mean_log_p, Tensor log_normaliser, Tensor runner_up, "
            "Tensor grad_loss, Tensor grad_mean, Tensor grad_variance, Tensor grad_margin) -> Tensor"
        ),
        "auditor_step": (
            "(Tensor scores, Tensor labels, Tensor groups, Tensor train_masks, Tensor held_out_masks, "
            "Tensor normaliser, int num_groups, int loss, float l2, float width, int payoff, bool standardize, "
            "float rtol, int max_steps, int parts) -> (Tensor per_problem, Tensor params, Tensor status, "
            "Tensor measures, Tensor counts, Tensor coefficients, Tensor directions)"
        ),
        "auditor_rows": (
            "(Tensor cotangents, Tensor scores, Tensor groups, Tensor coefficients, Tensor directions) -> Tensor"
        ),
    }
)


def fingerprint(schemas: Mapping[str, str] = SCHEMAS) -> str:
    """Return the name of the marker operator: `schemas_` and 16 hexadecimal digits of the table's SHA-256.

    Args:
        schemas: operator name -> schema; the order of the entries does not matter.

    Returns:
        A valid operator name.

    >>> fingerprint({"f": "() -> ()"})
    'schemas_418b31963162cd44'
    """
    text = "\n".join(f"{name}{schema}" for name, schema in sorted(schemas.items()))
    return f"schemas_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
