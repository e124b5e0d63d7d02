"""Unlearning methods, one a file; each is an object with `unlearn(model, splits, seed=) -> Result`."""

from amu_fast.unlearn.methods.amun import Amun
from amu_fast.unlearn.methods.cf_k import CfK
from amu_fast.unlearn.methods.eu_k import EuK
from amu_fast.unlearn.methods.fine_tune import FineTune
from amu_fast.unlearn.methods.fisher_forgetting import FisherForgetting
from amu_fast.unlearn.methods.gradient_ascent import GradientAscent
from amu_fast.unlearn.methods.influence import Influence
from amu_fast.unlearn.methods.l1_sparse import L1Sparse
from amu_fast.unlearn.methods.moments import ScoreMomentMatching
from amu_fast.unlearn.methods.msg import Msg
from amu_fast.unlearn.methods.neg_grad_plus import NegGradPlus
from amu_fast.unlearn.methods.random_labels import RandomLabels
from amu_fast.unlearn.methods.regun import ReGUn
from amu_fast.unlearn.methods.retrain import Retrain
from amu_fast.unlearn.methods.salun import SalUn
from amu_fast.unlearn.methods.scrub import Scrub
from amu_fast.unlearn.methods.ssd import SelectiveDampening
from amu_fast.unlearn.methods.stackelberg import Stackelberg
from amu_fast.unlearn.methods.zs_pag import ZsPag

__all__ = [
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
    "RandomLabels",
    "ReGUn",
    "Retrain",
    "SalUn",
    "ScoreMomentMatching",
    "Scrub",
    "SelectiveDampening",
    "Stackelberg",
    "ZsPag",
]
