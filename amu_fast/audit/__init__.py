"""The auditor: scores, folds, payoffs, metrics and attacks."""

from amu_fast.audit.attacks import (
    AttackResult,
    CalibratedLoss,
    LinearSvmAttack,
    LossThreshold,
    Outputs,
    PaperAttack,
    SplitOutputs,
)
from amu_fast.audit.auditor import Auditor
from amu_fast.audit.bank import MemoryBank
from amu_fast.audit.cap import ChanceCap
from amu_fast.audit.delong import auc_difference, auc_interval
from amu_fast.audit.ensemble import EnsembleAuditor
from amu_fast.audit.gather import check_agreement, gather_rows, gather_sides, global_mean
from amu_fast.audit.intervals import (
    Interval,
    accuracy_difference,
    accuracy_interval,
    attained_margin,
    average_gap,
    clopper_pearson,
    equivalent,
    paired_t,
    sign_flip_test,
    t_interval,
)
from amu_fast.audit.language import (
    Concatenate,
    HiddenState,
    MinK,
    MinKPlusPlus,
    reference_log_ratio,
    sequence_log_likelihood,
    token_entropy,
    token_margin,
    zlib_lengths,
    zlib_ratio,
)
from amu_fast.audit.predict import predict
from amu_fast.audit.roc import RocCurve, roc_curve, tpr_difference, tpr_interval
from amu_fast.audit.scores import (
    ModelOutputs,
    ScoreMap,
    TopK,
    confidence,
    log_likelihood,
    logits_and_loss,
    margin,
    modified_entropy,
)
from amu_fast.audit.step import Bounds, HingePayoff, LogisticPayoff, Payoff, auditor_step

__all__ = [
    "AttackResult",
    "Auditor",
    "Bounds",
    "CalibratedLoss",
    "ChanceCap",
    "Concatenate",
    "EnsembleAuditor",
    "HiddenState",
    "HingePayoff",
    "Interval",
    "LinearSvmAttack",
    "LogisticPayoff",
    "LossThreshold",
    "MemoryBank",
    "MinK",
    "MinKPlusPlus",
    "ModelOutputs",
    "Outputs",
    "PaperAttack",
    "Payoff",
    "RocCurve",
    "ScoreMap",
    "SplitOutputs",
    "TopK",
    "accuracy_difference",
    "accuracy_interval",
    "attained_margin",
    "auc_difference",
    "auc_interval",
    "auditor_step",
    "average_gap",
    "check_agreement",
    "clopper_pearson",
    "confidence",
    "equivalent",
    "gather_rows",
    "gather_sides",
    "global_mean",
    "log_likelihood",
    "logits_and_loss",
    "margin",
    "modified_entropy",
    "paired_t",
    "predict",
    "reference_log_ratio",
    "roc_curve",
    "sequence_log_likelihood",
    "sign_flip_test",
    "t_interval",
    "token_entropy",
    "token_margin",
    "tpr_difference",
    "tpr_interval",
    "zlib_lengths",
    "zlib_ratio",
]
