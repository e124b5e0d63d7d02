"""The auditor: scores, folds, payoffs, metrics and attacks."""

from amu_fast.audit.auditor import Auditor
from amu_fast.audit.bank import MemoryBank
from amu_fast.audit.cap import ChanceCap
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
    "Auditor",
    "Bounds",
    "ChanceCap",
    "HingePayoff",
    "LogisticPayoff",
    "MemoryBank",
    "ModelOutputs",
    "Payoff",
    "ScoreMap",
    "TopK",
    "auditor_step",
    "confidence",
    "log_likelihood",
    "logits_and_loss",
    "margin",
    "modified_entropy",
]
