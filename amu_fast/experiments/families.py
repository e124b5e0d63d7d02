"""The methods of the comparison, what is tuned of each, and the ablation's rows.

All of them share optimiser (SGD, momentum .9, weight decay 5e-4, cosine over the budget) and retain batch; each is
tuned in its learning rate and, where it has one, the strength of its forgetting term.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from amu_fast.experiments.units import Task
from amu_fast.unlearn.methods import (
    FineTune,
    GradientAscent,
    NegGradPlus,
    ScoreMomentMatching,
    Stackelberg,
)
from amu_fast.unlearn.optimise import Sgd

Parameters = Mapping[str, float]


@dataclass(frozen=True)
class Family:
    """A method with its tunable parameters, all of them positive and searched on a log scale.

    Attributes:
        name: Row of the table.
        title: As it is printed.
        build: From parameters, budget in retain-set sizes and task to a method.
        coarse: First configurations.
        ratios: Per parameter, the ratio of neighbours in the coarse grid.
    """

    name: str
    title: str
    build: Callable[[Parameters, float, Task], Any]
    coarse: tuple[Parameters, ...]
    ratios: Parameters

    def refined(self, best: Parameters, round_: int) -> tuple[Parameters, ...]:
        """Four configurations around the best one, closer in each round.

        One parameter: ratio^(±1/3, ±2/3) of its neighbours' ratio, then a third of that, and so on. Two parameters:
        ratio^(±1/2) along each, then ratio^(±1/4), and so on.
        """
        names = list(self.ratios)
        if len(names) == 1:
            exponents = [s * k / 3 / 3.0**round_ for k in (1, 2) for s in (-1, 1)]
            return tuple({**best, names[0]: best[names[0]] * self.ratios[names[0]] ** e} for e in exponents)
        size = 0.5 / 2.0**round_
        return tuple({**best, n: best[n] * self.ratios[n] ** (s * size)} for n in names for s in (-1, 1))


def geometric(low: float, high: float, count: int) -> tuple[float, ...]:
    """`count` values from low to high with equal ratios, to three digits."""
    ratio = (high / low) ** (1.0 / (count - 1))
    return tuple(float(f"{low * ratio**k:.3g}") for k in range(count))


def _line(name: str, low: float, high: float, title: str, build: Any) -> Family:
    values = geometric(low, high, 8)
    ratio = (high / low) ** (1.0 / 7)
    return Family(name, title, build, tuple({"lr": lr} for lr in values), {"lr": ratio})


def _plane(name: str, axes: dict[str, tuple[float, float, int]], title: str, build: Any) -> Family:
    values = {axis: geometric(*spec) for axis, spec in axes.items()}
    coarse = tuple(dict(zip(values, point, strict=True)) for point in product(*values.values()))
    ratios = {axis: (high / low) ** (1.0 / (count - 1)) for axis, (low, high, count) in axes.items()}
    return Family(name, title, build, coarse, ratios)


def _fine_tune(p: Parameters, epochs: float, task: Task) -> FineTune:
    return FineTune(epochs=epochs, optimiser=Sgd(lr=p["lr"]), batch_size=task.unlearn_batch)


def _gradient_ascent(p: Parameters, epochs: float, task: Task) -> GradientAscent:
    """Stops by itself after `passes` over the forget rows if the budget lasts that long."""
    wanted = p["passes"] * task.forget / (task.train - task.forget)
    return GradientAscent(epochs=min(epochs, wanted), optimiser=Sgd(lr=p["lr"]), batch_size=task.unlearn_batch)


def _neg_grad_plus(p: Parameters, epochs: float, task: Task) -> NegGradPlus:
    """`forget_weight` is (1 − a)/a."""
    share = 1.0 / (1.0 + p["forget_weight"])
    return NegGradPlus(
        epochs=epochs, retain_share=share, optimiser=Sgd(lr=p["lr"], clip=1.0), batch_size=task.unlearn_batch
    )


def _moments(p: Parameters, epochs: float, task: Task) -> ScoreMomentMatching:
    return ScoreMomentMatching(
        epochs=epochs, weight=p["weight"], optimiser=Sgd(lr=p["lr"]), batch_size=task.unlearn_batch
    )


def _stackelberg(p: Parameters, epochs: float, task: Task) -> Stackelberg:
    return Stackelberg(epochs=epochs, weight=p["weight"], optimiser=Sgd(lr=p["lr"]), batch_size=task.unlearn_batch)


def _published(p: Parameters, epochs: float, task: Task) -> Stackelberg:
    return replace(
        Stackelberg.as_published(),
        epochs=epochs,
        weight=p["weight"],
        optimiser=Sgd(lr=p["lr"]),
        batch_size=task.unlearn_batch,
    )


RATES = (0.03, 0.12, 2)

FAMILIES = (
    _line("fine_tune", 0.02, 0.4, "fine-tuning", _fine_tune),
    _plane("gradient_ascent", {"lr": (1e-4, 1e-2, 4), "passes": (1.0, 5.0, 2)}, "gradient ascent", _gradient_ascent),
    _plane("neg_grad_plus", {"lr": RATES, "forget_weight": (0.05, 1.0, 4)}, "NegGrad+", _neg_grad_plus),
    _plane("moment_matching", {"lr": RATES, "weight": (0.2, 3.0, 4)}, "score moment matching", _moments),
    _plane("stackelberg", {"lr": RATES, "weight": (1.0, 8.0, 4)}, "Stackelberg", _stackelberg),
    _plane("as_published", {"lr": RATES, "weight": (0.1, 10.0, 4)}, "Stackelberg, as published", _published),
)

Variant = Callable[[Stackelberg], Stackelberg]
ABLATION: dict[str, tuple[str, Variant]] = {
    "direct_only": ("… direct term only", lambda m: replace(m, implicit="direct_only")),
    "implicit_only": ("… implicit term only", lambda m: replace(m, implicit="implicit_only")),
    "weight_0": ("… weight 0, same forward passes", lambda m: replace(m, weight=0.0)),
}
"""Variants of the tuned Stackelberg row, with its hyper-parameters."""
