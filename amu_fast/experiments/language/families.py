"""The methods of the language comparison and what is tuned of each: the learning rate and one parameter of its own.

All run AdamW with a warm-up and a cosine over the budget, on the same rows; every method gets 8 + 4 · rounds
configurations.
"""

from __future__ import annotations

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
        audit_batch: Forget rows of a batch, and V_game rows.
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
        audit_batch: Forget rows and V_game rows of a batch; None: as many as the task says for a method that compares
            them, else as many forget rows as retain rows.
    """

    name: str
    title: str
    build: Callable[[Parameters], Objective]
    coarse: tuple[Parameters, ...]
    ratios: Parameters
    audit_batch: int | None = None

    def refined(self, best: Parameters, round_: int) -> tuple[Parameters, ...]:
        """Four configurations around the best one, closer in each round."""
        return neighbours(best, self.ratios, round_)

    def recipe(self, parameters: Parameters, batch_size: int, audit_batch: int) -> Recipe:
        """One configuration; the parameters "lr" and "batch" are the optimiser's."""
        optimiser = AdamW(lr=parameters["lr"], batch_size=round(parameters.get("batch", batch_size)))
        compares = "validation" in self.build(parameters).needs(0)
        rows = self.audit_batch or (audit_batch if compares else optimiser.batch_size)
        return Recipe(self.name, dict(parameters), optimiser, rows)


def _family(
    name: str,
    title: str,
    build: Callable[[Parameters], Objective],
    lr: tuple[float, float, int],
    audit_batch: int | None = None,
    **other: tuple[float, float, int],
) -> LanguageFamily:
    """A grid of 8 points over the learning rate and one other parameter, each (low, high, count)."""
    ((parameter, span),) = other.items()
    axes = {"lr": lr, parameter: span}
    coarse = tuple({"lr": a, parameter: b} for a in geometric(*lr) for b in geometric(*span))
    ratios = {axis: (high / low) ** (1.0 / (count - 1)) for axis, (low, high, count) in axes.items()}
    return LanguageFamily(name, title, build, coarse, ratios, audit_batch)


SCORE = Concatenate(sequence_log_likelihood, MinK(0.4))
"""Of the game and of moment matching: the mean of log p and that of its lower tail; chosen on units never judged.

The mean alone leaves the tails apart, by which the attack on eight scores tells members.
"""
AUDIT_BATCH, BANK = 16, 64
"""The game audits few rows often: a bank makes up for the rows, and each step moves the weights less."""


def _game(p: Parameters) -> GameObjective:
    return GameObjective(Auditor(scores=SCORE), weight=p["weight"], every=2, bank=MemoryBank(BANK))


def _moments(p: Parameters) -> ScoreMoments:
    return ScoreMoments(weight=p["weight"], scores=SCORE, every=2)


def _fine_tune(p: Parameters) -> FineTune:
    return FineTune()


def _difference(p: Parameters) -> GradientDifference:
    return GradientDifference(forget_weight=p["forget_weight"])


def _npo(p: Parameters) -> Npo:
    return Npo(beta=0.1, retain_weight=p["retain_weight"])


_RATES = (1e-3, 4e-3, 2)

FAMILIES = {
    family.name: family
    for family in (
        _family("fine_tune", "fine-tuning", _fine_tune, (2e-3, 1.6e-2, 4), batch=(8.0, 16.0, 2)),
        _family("gradient_difference", "gradient difference", _difference, _RATES, forget_weight=(0.05, 0.8, 4)),
        _family("npo", "NPO", _npo, (5e-4, 2e-3, 2), retain_weight=(3.0, 81.0, 4)),
        _family("moment_matching", "score moment matching", _moments, _RATES, weight=(0.2, 3.2, 4)),
        _family("game", "game", _game, _RATES, audit_batch=AUDIT_BATCH, weight=(1.0, 16.0, 4)),
    )
}
