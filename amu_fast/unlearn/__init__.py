"""Machine unlearning as a Stackelberg game: methods, auditors, and one call for each.

>>> import amu_fast.unlearn as au
>>> method = au.Stackelberg(auditor=au.Auditor(follower=au.SquaredHinge(l2=0.1)), weight=5.0, epochs=1.0)
>>> method.name
'stackelberg'
"""

from amu_fast.audit import (
    Auditor,
    ChanceCap,
    Concatenate,
    EnsembleAuditor,
    HiddenState,
    HingePayoff,
    LogisticPayoff,
    MemoryBank,
    MinK,
    MinKPlusPlus,
    ModelOutputs,
    Payoff,
    TopK,
    auditor_step,
    confidence,
    log_likelihood,
    logits_and_loss,
    margin,
    modified_entropy,
    reference_log_ratio,
    sequence_log_likelihood,
    token_entropy,
    token_margin,
    zlib_ratio,
)
from amu_fast.followers import HuberisedHinge, Logistic, NeuralFollower, SquaredHinge
from amu_fast.splits import Splits
from amu_fast.unlearn.adversarial import Perturbation
from amu_fast.unlearn.api import audit, unlearn
from amu_fast.unlearn.callbacks import Callback, StepState
from amu_fast.unlearn.checkpoint import (
    Checkpoint,
    CheckpointStore,
    capture_rng,
    model_state,
    optimizer_state,
    restore,
    restore_rng,
)
from amu_fast.unlearn.methods import (
    Amun,
    CfK,
    EuK,
    FineTune,
    FisherForgetting,
    GradientAscent,
    Influence,
    L1Sparse,
    Msg,
    NegGradPlus,
    RandomLabels,
    ReGUn,
    Retrain,
    SalUn,
    ScoreMomentMatching,
    Scrub,
    SelectiveDampening,
    Stackelberg,
    ZsPag,
)
from amu_fast.unlearn.objectives import GameObjective, Objective, UnlearningBatch
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.progress import Progress
from amu_fast.unlearn.result import Result

__all__ = [
    # methods
    "Amun",
    "CfK",
    "EuK",
    "FineTune",
    "FisherForgetting",
    "GradientAscent",
    "Influence",
    "L1Sparse",
    "Msg",
    "NegGradPlus",
    "Perturbation",
    "RandomLabels",
    "ReGUn",
    "Retrain",
    "SalUn",
    "ScoreMomentMatching",
    "Scrub",
    "SelectiveDampening",
    "Sgd",
    "Stackelberg",
    "ZsPag",
    "unlearn",
    # the auditor
    "Auditor",
    "ChanceCap",
    "EnsembleAuditor",
    "HuberisedHinge",
    "HingePayoff",
    "Logistic",
    "LogisticPayoff",
    "MemoryBank",
    "NeuralFollower",
    "Payoff",
    "SquaredHinge",
    "audit",
    "auditor_step",
    # for anybody's loop: see amu_fast.unlearn.objectives
    "Checkpoint",
    "CheckpointStore",
    "GameObjective",
    "Objective",
    "UnlearningBatch",
    "capture_rng",
    "model_state",
    "optimizer_state",
    "restore",
    "restore_rng",
    # scores
    "Concatenate",
    "HiddenState",
    "MinK",
    "MinKPlusPlus",
    "ModelOutputs",
    "TopK",
    "confidence",
    "log_likelihood",
    "logits_and_loss",
    "margin",
    "modified_entropy",
    "reference_log_ratio",
    "sequence_log_likelihood",
    "token_entropy",
    "token_margin",
    "zlib_ratio",
    # data, results, callbacks
    "Callback",
    "Progress",
    "Result",
    "Splits",
    "StepState",
]
