"""Attacks that judge a model: one per file, each `run(target, splits) -> AttackResult`."""

from amu_fast.audit.attacks.calibrated import CalibratedLoss
from amu_fast.audit.attacks.loss import LossThreshold
from amu_fast.audit.attacks.outputs import Outputs, SplitOutputs
from amu_fast.audit.attacks.paper import PaperAttack
from amu_fast.audit.attacks.result import AttackResult
from amu_fast.audit.attacks.svm import LinearSvmAttack

__all__ = [
    "AttackResult",
    "CalibratedLoss",
    "LinearSvmAttack",
    "LossThreshold",
    "Outputs",
    "PaperAttack",
    "SplitOutputs",
]
