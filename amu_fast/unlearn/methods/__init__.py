"""One unlearning method per file."""

from amu_fast.unlearn.methods.fine_tune import FineTune
from amu_fast.unlearn.methods.gradient_ascent import GradientAscent
from amu_fast.unlearn.methods.influence import Influence
from amu_fast.unlearn.methods.moments import ScoreMomentMatching
from amu_fast.unlearn.methods.neg_grad_plus import NegGradPlus
from amu_fast.unlearn.methods.retrain import Retrain
from amu_fast.unlearn.methods.stackelberg import Stackelberg

__all__ = ["FineTune", "GradientAscent", "Influence", "NegGradPlus", "Retrain", "ScoreMomentMatching", "Stackelberg"]
