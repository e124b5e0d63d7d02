"""The auditor's optimisation problems."""

from amu_fast.followers.linear import HuberisedHinge, LinearFollower, Logistic, SquaredHinge
from amu_fast.followers.neural import NeuralFollower

__all__ = ["HuberisedHinge", "LinearFollower", "Logistic", "NeuralFollower", "SquaredHinge"]
