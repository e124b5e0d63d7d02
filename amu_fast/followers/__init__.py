"""The auditor's optimisation problems."""

from amu_fast.followers.linear import HuberisedHinge, LinearFollower, Logistic, SquaredHinge

__all__ = ["HuberisedHinge", "LinearFollower", "Logistic", "SquaredHinge"]
