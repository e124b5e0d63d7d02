"""Shadow and reference models by the dozen: laid out, made once each, kept in files, resumed after a stop."""

from amu_fast.fleet.fleet import Fleet, Shadow
from amu_fast.fleet.outputs import outputs_of, phi_of, shadow_scores
from amu_fast.fleet.specs import ShadowSpec, balanced_masks, leave_out_specs, lira_specs, ulira_specs

__all__ = [
    "Fleet",
    "Shadow",
    "ShadowSpec",
    "balanced_masks",
    "leave_out_specs",
    "lira_specs",
    "outputs_of",
    "phi_of",
    "shadow_scores",
    "ulira_specs",
]
