"""The methods of the language comparison and what is tuned of each: the learning rate and one parameter of its own.

All run AdamW with the same warm-up and a cosine over the budget, on the same rows; every method gets 8 + 4 · rounds
configurations. Batch sizes, and what else is fixed here, were chosen by hand on units that are not judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from amu_fast.audit.auditor import Auditor
from amu_fast.audit.bank import MemoryBank
from amu_fast.audit.language import Concatenate, MinK, sequence_log_likelihood
from amu_fast.experiments.families import geometric, neighbours
from amu_fast.experiments.language.loops import AdamW
from amu_fast.unlearn.objectives import FineTune, GameObjective, GradientDifference, Npo, Objective, ScoreMoments

Parameters = Mapping[str, float]


@dataclass(frozen=True)
class Recipe:
    """One configuration of one method: what a record holds of it.

    Attributes:
        name: Of the family.
        parameters: The tuned ones.
        optimiser: Of the run.
        audit_batch: Forget rows of a batch, and V_game rows, for a method that has such.
    """

    name: str
    parameters: Parameters
    optimiser: AdamW
    audit_batch: int

    def objective(self) -> Objective:
        """A fresh objective: the game's has a state of its own."""
        return FAMILIES[self.name].build(self.parameters)


@dataclass(frozen=True)
class LanguageFamily:
    """A method with its tunable parameters, all positive and searched on a log scale.

    Attributes:
        name: Row of the table.
        title: As it is printed.
        build: From parameters to an objective.
        coarse: First configurations.
        ratios: Per parameter, the ratio of neighbours in the coarse grid.
        batch_size: Retain rows a step, unless "batch" is tuned.
        audit_batch: Forget rows of a batch, and V_game rows; None: as many as retain rows.
    """

    name: str
    title: str
    build: Callable[[Parameters], Objective]
    coarse: tuple[Parameters, ...]
    ratios: Parameters
    batch_size: int
    audit_batch: int | None = None

    def refined(self, best: Parameters, round_: int) -> tuple[Parameters, ...]:
        """Four configurations around the best one, closer in each round."""
        return neighbours(best, self.ratios, round_)

    def recipe(self, parameters: Parameters) -> Recipe:
        """One configuration; the parameters "lr" and "batch" are the optimiser's."""
        batch_size = round(parameters.get("batch", self.batch_size))
        optimiser = AdamW(lr=parameters["lr"], batch_size=batch_size, warmup=WARMUP, clip=math.inf)
        return Recipe(self.name, dict(parameters), optimiser, self.audit_batch or batch_size)


def _family(
    name: str,
    title: str,
    build: Callable[[Parameters], Objective],
    lr: tuple[float, float, int],
    batch_size: int,
    audit_batch: int | None = None,
    **other: tuple[float, float, int],
) -> LanguageFamily:
    """A grid of 8 points over the learning rate and one other parameter, each (low, high, count)."""
    ((parameter, span),) = other.items()
    axes = {"lr": lr, parameter: span}
    coarse = tuple({"lr": a, parameter: b} for a in geometric(*lr) for b in geometric(*span))
    ratios = {axis: (high / low) ** (1.0 / (count - 1)) for axis, (low, high, count) in axes.items()}
    return LanguageFamily(name, title, build, coarse, ratios, batch_size, audit_batch)


SCORE = Concatenate(sequence_log_likelihood, MinK(0.4))
"""Of the game and of moment matching: the mean of log p and that of its lower tail.

The mean alone leaves the tails apart, by which the attack on eight scores tells members.
"""
WARMUP = 0.3
"""Share of every run; and no run clips its gradient, which would make the game's weight mean nothing."""
FOLDS, BANK = 10, 160
"""The game audits 8 rows a side, so that little of the budget is spent on them. A bank of all rows makes up for how
few they are, and by many folds nearly all of them are test rows of one, which is where payoff and gradient are."""


def _game(p: Parameters) -> GameObjective:
    return GameObjective(Auditor(scores=SCORE, folds=FOLDS), weight=p["weight"], every=4, bank=MemoryBank(BANK))


def _moments(p: Parameters) -> ScoreMoments:
    return ScoreMoments(weight=p["weight"], scores=SCORE, every=4)


def _fine_tune(p: Parameters) -> FineTune:
    return FineTune()


def _difference(p: Parameters) -> GradientDifference:
    return GradientDifference(forget_weight=p["forget_weight"])


def _npo(p: Parameters) -> Npo:
    return Npo(beta=0.1, retain_weight=p["retain_weight"])


FAMILIES = {
    family.name: family
    for family in (
        _family("fine_tune", "fine-tuning", _fine_tune, (2e-3, 1.2e-2, 4), 4, batch=(2.0, 4.0, 2)),
        _family(
            "gradient_difference", "gradient difference", _difference, (1e-3, 4e-3, 2), 8, forget_weight=(0.05, 0.8, 4)
        ),
        _family("npo", "NPO", _npo, (1e-3, 4e-3, 2), 16, retain_weight=(3.0, 81.0, 4)),
        _family("moment_matching", "score moment matching", _moments, (1e-3, 4e-3, 2), 4, 16, weight=(0.1, 1.6, 4)),
        _family("game", "game", _game, (2e-3, 6e-3, 2), 5, 8, weight=(0.4, 6.4, 4)),
    )
}
