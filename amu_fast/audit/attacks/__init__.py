"""Attacks that judge a model: one per file, each `run(target, splits)`; those with a ROC return an `AttackResult`."""

from amu_fast.audit.attacks.calibrated import CalibratedLoss
from amu_fast.audit.attacks.confidence_svm import ConfidenceSvm, EfficacyResult
from amu_fast.audit.attacks.distances import DistanceResult, LossDistances
from amu_fast.audit.attacks.forget_quality import ForgetQuality, ForgetQualityResult
from amu_fast.audit.attacks.gus import GaussianPoison, GusResult, Poisons
from amu_fast.audit.attacks.interclass import ConfusionResult, InterclassConfusion
from amu_fast.audit.attacks.klom import Klom, KlomResult
from amu_fast.audit.attacks.lira import Lira
from amu_fast.audit.attacks.loss import LossThreshold
from amu_fast.audit.attacks.min_k import MinKAttack, MinKPlusPlusAttack, extraction_strength, privleak
from amu_fast.audit.attacks.modified_entropy import ModifiedEntropy
from amu_fast.audit.attacks.outputs import Outputs, SplitOutputs
from amu_fast.audit.attacks.paper import PaperAttack
from amu_fast.audit.attacks.probe import HiddenStateProbe
from amu_fast.audit.attacks.relearn import RelearnResult, RelearnTime, mean_loss
from amu_fast.audit.attacks.result import AttackResult
from amu_fast.audit.attacks.rmia import Rmia
from amu_fast.audit.attacks.shadows import Shadows, ShadowScores
from amu_fast.audit.attacks.svm import LinearSvmAttack
from amu_fast.audit.attacks.ulira import ULira

__all__ = [
    "AttackResult",
    "CalibratedLoss",
    "ConfidenceSvm",
    "ConfusionResult",
    "DistanceResult",
    "EfficacyResult",
    "ForgetQuality",
    "ForgetQualityResult",
    "GaussianPoison",
    "GusResult",
    "HiddenStateProbe",
    "InterclassConfusion",
    "Klom",
    "KlomResult",
    "LinearSvmAttack",
    "Lira",
    "LossDistances",
    "LossThreshold",
    "MinKAttack",
    "MinKPlusPlusAttack",
    "ModifiedEntropy",
    "Outputs",
    "PaperAttack",
    "Poisons",
    "RelearnResult",
    "RelearnTime",
    "Rmia",
    "ShadowScores",
    "Shadows",
    "SplitOutputs",
    "ULira",
    "extraction_strength",
    "mean_loss",
    "privleak",
]
