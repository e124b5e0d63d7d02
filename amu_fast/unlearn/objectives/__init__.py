"""Losses of unlearning methods for anybody's training loop: transformers, Accelerate, DDP, FSDP2 or plain."""

from amu_fast.unlearn.objectives.auditing import AuditScores
from amu_fast.unlearn.objectives.base import Objective, Terms
from amu_fast.unlearn.objectives.batch import AUXILIARY, UnlearningBatch, audit_mode, outputs_of
from amu_fast.unlearn.objectives.game import Cotangent, GameObjective
from amu_fast.unlearn.objectives.likelihood import (
    log_likelihoods,
    mean_log_likelihoods,
    mean_nll,
    summed_log_likelihoods,
)
from amu_fast.unlearn.objectives.moments import ScoreMoments
from amu_fast.unlearn.objectives.npo import Npo
from amu_fast.unlearn.objectives.supervised import FineTune, GradientAscent, GradientDifference

__all__ = [
    "AUXILIARY",
    "AuditScores",
    "Cotangent",
    "FineTune",
    "GameObjective",
    "GradientAscent",
    "GradientDifference",
    "Npo",
    "Objective",
    "ScoreMoments",
    "Terms",
    "UnlearningBatch",
    "audit_mode",
    "log_likelihoods",
    "mean_log_likelihoods",
    "mean_nll",
    "outputs_of",
    "summed_log_likelihoods",
]
