"""What can go wrong when deletion requests are obeyed, planted on purpose, with the audits that see it."""

from amu_fast.experiments.dangers.badfu import BadFU, BadFUResult, Poisoned
from amu_fast.experiments.dangers.camouflage import (
    CamouflageAudit,
    CamouflageFindings,
    RecoveredPattern,
    camouflage_audit,
)
from amu_fast.experiments.dangers.cast import Cast
from amu_fast.experiments.dangers.federated import FedAvg, Federation, average_states, dirichlet_clients
from amu_fast.experiments.dangers.over_unlearning import OverUnlearningAudit, cross_fitted_auc, over_matched_noise
from amu_fast.experiments.dangers.poisoned import MembershipAudit, member_share, missing_rows, request_of
from amu_fast.experiments.dangers.quantisation import QuantisationAudit, quantisation_step, quantise, quantised
from amu_fast.experiments.dangers.relearning import FastRelearning, RelearningAttack
from amu_fast.experiments.dangers.report import DangerReport
from amu_fast.experiments.dangers.triggers import PatchTrigger, TriggerAudit, successes, trigger_audit
from amu_fast.experiments.dangers.utility import CompositionAudit, UtilityAudit

__all__ = [
    "BadFU",
    "BadFUResult",
    "CamouflageAudit",
    "CamouflageFindings",
    "Cast",
    "CompositionAudit",
    "DangerReport",
    "FastRelearning",
    "FedAvg",
    "Federation",
    "MembershipAudit",
    "OverUnlearningAudit",
    "PatchTrigger",
    "Poisoned",
    "QuantisationAudit",
    "RecoveredPattern",
    "RelearningAttack",
    "TriggerAudit",
    "UtilityAudit",
    "average_states",
    "camouflage_audit",
    "cross_fitted_auc",
    "dirichlet_clients",
    "member_share",
    "missing_rows",
    "over_matched_noise",
    "quantisation_step",
    "quantise",
    "quantised",
    "request_of",
    "successes",
    "trigger_audit",
]
