"""What can go wrong when deletion requests are obeyed, planted on purpose, with the audits that see it."""

from amu_fast.experiments.dangers.badfu import BadFU, BadFUResult, Poisoned
from amu_fast.experiments.dangers.camouflage import (
    CamouflageAudit,
    CamouflageFindings,
    RecoveredPattern,
    camouflage_audit,
)
from amu_fast.experiments.dangers.federated import FedAvg, Federation, average_states, dirichlet_clients
from amu_fast.experiments.dangers.report import DangerReport
from amu_fast.experiments.dangers.triggers import PatchTrigger, TriggerAudit, successes, trigger_audit

__all__ = [
    "BadFU",
    "BadFUResult",
    "CamouflageAudit",
    "CamouflageFindings",
    "DangerReport",
    "FedAvg",
    "Federation",
    "PatchTrigger",
    "Poisoned",
    "RecoveredPattern",
    "TriggerAudit",
    "average_states",
    "camouflage_audit",
    "dirichlet_clients",
    "successes",
    "trigger_audit",
]
