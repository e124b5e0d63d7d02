"""The methods of the comparison, what is tuned of each, and the ablation's rows.

All are SGD with weight decay 5e-4 and a cosine over the budget, and each has two tuned parameters, one of them the
learning rate. Momentum, batch and score of each row were chosen once, by what served that method best on units 900 to
902, which are never judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from amu_fast.audit import Auditor, confidence
from amu_fast.experiments.tasks import Task
from amu_fast.unlearn.methods import (
    FineTune,
    GradientAscent,
    NegGradPlus,
    ScoreMomentMatching,
    Stackelberg,
)
from amu_fast.unlearn.optimise import Sgd

Parameters = Mapping[str, float]
Build = Callable[[Parameters, float, Task], Any]


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
    build: Build
    coarse: tuple[Parameters, ...]
    ratios: Parameters

    def refined(self, best: Parameters, round_: int) -> tuple[Parameters, ...]:
        """Four configurations around the best one, closer in each round.

        By ratio^(±1/2) along each of the two parameters in round 0, then ratio^(±1/4), and so on.
        """
        return neighbours(best, self.ratios, round_)


def neighbours(best: Parameters, ratios: Parameters, round_: int) -> tuple[Parameters, ...]:
    """The best configuration with one parameter changed by ratio^(±1/2) in round 0, ratio^(±1/4) in round 1, ..."""
    step = 0.5 ** (1 + round_)
    return tuple({**best, n: best[n] * r ** (s * step)} for n, r in ratios.items() for s in (-1, 1))


def geometric(low: float, high: float, count: int) -> tuple[float, ...]:
    """`count` values from low to high with equal ratios, to three digits."""
    ratio = (high / low) ** (1.0 / (count - 1))
    return tuple(float(f"{low * ratio**k:.3g}") for k in range(count))


def _plane(name: str, title: str, axes: dict[str, tuple[float, float, int]], build: Build) -> Family:
    """Coarse grid of 8 points; an axis is (low, high, count)."""
    values = {axis: geometric(*spec) for axis, spec in axes.items()}
    coarse = tuple(dict(zip(values, point, strict=True)) for point in product(*values.values()))
    ratios = {axis: (high / low) ** (1.0 / (count - 1)) for axis, (low, high, count) in axes.items()}
    return Family(name, title, build, coarse, ratios)


def _fine_tune(p: Parameters, epochs: float, task: Task) -> FineTune:
    return FineTune(epochs=epochs, optimiser=Sgd(lr=p["lr"]), batch_size=round(p["batch"]))


def _gradient_ascent(p: Parameters, epochs: float, task: Task) -> GradientAscent:
    """Stops by itself after `passes` over the forget rows if the budget lasts that long."""
    wanted = p["passes"] * task.forget / (task.train - task.forget)
    return GradientAscent(epochs=min(epochs, wanted), optimiser=Sgd(lr=p["lr"]), batch_size=task.unlearn_batch)


def _neg_grad_plus(p: Parameters, epochs: float, task: Task) -> NegGradPlus:
    """Without momentum and with clipping, as its authors run it; `forget_weight` is (1 − a)/a."""
    share, sgd = 1.0 / (1.0 + p["forget_weight"]), Sgd(lr=p["lr"], momentum=0.0, clip=1.0)
    return NegGradPlus(epochs=epochs, retain_share=share, optimiser=sgd, batch_size=task.unlearn_batch)


def _moments(p: Parameters, epochs: float, task: Task) -> ScoreMomentMatching:
    return ScoreMomentMatching(
        epochs=epochs, weight=p["weight"], scores=confidence, optimiser=_plain(p), batch_size=task.unlearn_batch
    )


def _game(auditor: Auditor) -> Build:
    """The recommended preset with this auditor."""

    def build(p: Parameters, epochs: float, task: Task) -> Stackelberg:
        return Stackelberg(
            epochs=epochs, auditor=auditor, weight=p["weight"], optimiser=_plain(p), batch_size=task.unlearn_batch
        )

    return build


def _published(p: Parameters, epochs: float, task: Task) -> Stackelberg:
    published = Stackelberg.as_published()
    return replace(
        published, epochs=epochs, weight=p["weight"], optimiser=Sgd(lr=p["lr"]), batch_size=task.unlearn_batch
    )


def _plain(p: Parameters) -> Sgd:
    """A game step's pull must not persist into later steps, when its sign may have changed: no momentum."""
    return Sgd(lr=p["lr"], momentum=0.0)


RATES = (0.15, 0.3, 2)
WEIGHTS = (2.0, 16.0, 4)

FAMILIES = (
    _plane("fine_tune", "fine-tuning", {"lr": (0.03, 0.3, 4), "batch": (32.0, 64.0, 2)}, _fine_tune),
    _plane("gradient_ascent", "gradient ascent", {"lr": (1e-4, 1e-2, 4), "passes": (1.0, 5.0, 2)}, _gradient_ascent),
    _plane("neg_grad_plus", "NegGrad+", {"lr": (0.2, 0.6, 2), "forget_weight": (0.1, 1.0, 4)}, _neg_grad_plus),
    _plane("moment_matching", "score moment matching", {"lr": RATES, "weight": (0.5, 4.0, 4)}, _moments),
    _plane("stackelberg", "Stackelberg", {"lr": RATES, "weight": WEIGHTS}, _game(Auditor(scores=confidence))),
    _plane("log_score", "Stackelberg, score log p", {"lr": RATES, "weight": WEIGHTS}, _game(Auditor())),
    _plane("as_published", "Stackelberg, as published", {"lr": (0.03, 0.12, 2), "weight": (0.1, 10.0, 4)}, _published),
)

Variant = Callable[[Stackelberg], Stackelberg]
ABLATION: dict[str, tuple[str, Variant]] = {
    "direct_only": ("… direct term only", lambda m: replace(m, implicit="direct_only")),
    "implicit_only": ("… implicit term only", lambda m: replace(m, implicit="implicit_only")),
    "weight_0": ("… weight 0, same forward passes", lambda m: replace(m, weight=0.0)),
}
"""Variants of the tuned Stackelberg row, with its hyper-parameters."""
