"""Epsilon of unlearning as a lower bound (S14); a point estimate of it averages well above 0 when it is 0.

Two worlds of models, "forgotten" (trained on a row, then unlearned) and "never" (never saw it). If unlearning were
(epsilon, 0)-indistinguishable, the shares of the two worlds beyond any threshold would differ by at most e^epsilon.

Source: Jagielski, Ullman and Oprea 2020 (arXiv 2006.07709); Nasr et al. 2021 (arXiv 2101.04535).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.audit.intervals import clopper_pearson
from amu_fast.audit.metrics import Array, as_matrix
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_MODELS = 16
"""Models of each world and row below which nothing is reported (S14)."""


@dataclass(frozen=True)
class EpsilonLowerBound:
    """Lower bound on epsilon, over all examples at once.

    Attributes:
        low: with confidence `level`, epsilon is at least this; >= 0.
        example: the row that gives it.
        ceiling: the largest bound that so few models can give; `low` says little where it is near.
        level: joint over the examples.
        judged: models of each world that judged, (forgotten, never).
        examples: rows, m.
        per_example: (m,) each row's bound, all valid together.
    """

    low: float
    example: int
    ceiling: float
    level: float
    judged: tuple[int, int]
    examples: int
    per_example: tuple[float, ...]


def epsilon_lower_bound(forgotten: Any, never: Any, *, level: float = 0.95, seed: int = 0) -> EpsilonLowerBound:
    """Clopper-Pearson bound: threshold and side from one half of the models, judged on the other, Bonferroni over rows.

    log(low(p)/high(q)) for the shares p and q of the two worlds' models on one side of the threshold, each end at
    (1 - level)/(2m). Which world and which side is larger is chosen with the threshold.

    Args:
        forgotten: (N, m) scores of m rows under N models of that world; (N,) for one row.
        never: (N', m) scores of the same rows under models of the other world.
        level: joint over the rows.
        seed: of the halves.

    Raises:
        DataError: fewer than 16 models of a world, or different numbers of rows.
    """
    worlds = [as_matrix(np.reshape(w, (len(w), -1)), "scores") for w in (np.asarray(forgotten), np.asarray(never))]
    if worlds[0].shape[1] != worlds[1].shape[1]:
        raise DataError(f"both worlds must score the same rows, got {worlds[0].shape[1]} and {worlds[1].shape[1]}")
    if min(map(len, worlds)) < MIN_MODELS:
        raise DataError(
            f"epsilon needs at least {MIN_MODELS} forgotten and {MIN_MODELS} never models, got {len(worlds[0])} and "
            f"{len(worlds[1])}; train more (S14)"
        )
    rng, examples = np.random.default_rng(seed), worlds[0].shape[1]
    (choose_in, judge_in), (choose_out, judge_out) = (_halves(world, rng) for world in worlds)
    tail = (1.0 - level) / (2.0 * examples)
    chooser, judge = _Ends.of(len(choose_in), len(choose_out), tail), _Ends.of(len(judge_in), len(judge_out), tail)
    bounds = []
    for row in range(examples):
        threshold, candidate = _choose(choose_in[:, row], choose_out[:, row], chooser)
        above = [np.array([int((side[:, row] > threshold).sum())]) for side in (judge_in, judge_out)]
        bounds.append(max(0.0, float(judge.log_ratios(*above)[candidate, 0])))
    best = int(np.argmax(bounds))
    full, none = np.array([len(judge_in), 0]), np.array([0, len(judge_out)])
    ceiling = max(0.0, float(judge.log_ratios(full, none).max()))
    judged = (len(judge_in), len(judge_out))
    return EpsilonLowerBound(bounds[best], best, ceiling, level, judged, examples, tuple(bounds))


def epsilon_ceiling(models: int, examples: int = 1, level: float = 0.95) -> float:
    """Largest bound that `models` judging models of each world can give: all of one side hit, none of the other.

    log(q/(1 - q)) with q = ((1 - level)/(2 examples))^(1/models). As many models again choose the threshold.

    >>> [round(epsilon_ceiling(n), 2) for n in (16, 64, 512)]
    [1.35, 2.82, 4.93]
    """
    if models < 1 or examples < 1:
        raise DataError(f"models and examples must be >= 1, got {models} and {examples}")
    low, high = _ends(models, (1.0 - level) / (2.0 * examples))
    return max(0.0, math.log(low[-1] / high[0]))


@dataclass(frozen=True, eq=False)
class _Ends:
    """Clopper-Pearson's ends for every count of either world, (N + 1,) and (N' + 1,)."""

    inside: tuple[Array, Array]
    outside: tuple[Array, Array]

    @staticmethod
    def of(inside: int, outside: int, tail: float) -> _Ends:
        return _Ends(_ends(inside, tail), _ends(outside, tail))

    def log_ratios(self, above_in: NDArray[np.int64], above_out: NDArray[np.int64]) -> Array:
        """(4, k) bounds for k counts above a threshold: both worlds as the larger one, above and below it."""
        n, m = len(self.inside[0]) - 1, len(self.outside[0]) - 1
        rows = []
        for a, b in ((above_in, above_out), (n - above_in, m - above_out)):
            rows += [self.inside[0][a] / self.outside[1][b], self.outside[0][b] / self.inside[1][a]]
        return np.log(np.maximum(rows, np.finfo(np.float64).tiny))


def _ends(trials: int, tail: float) -> tuple[Array, Array]:
    bounds = [clopper_pearson(k, trials, 1.0 - 2.0 * tail) for k in range(trials + 1)]
    return np.array([b.low for b in bounds]), np.array([b.high for b in bounds])


def _choose(inside: Array, outside: Array, ends: _Ends) -> tuple[float, int]:
    """The threshold, and which of the four ratios, with the largest bound on these models."""
    points = np.unique(np.concatenate([inside, outside]))
    above = [len(side) - np.searchsorted(np.sort(side), points, side="right") for side in (inside, outside)]
    ratios = ends.log_ratios(*above)
    candidate, point = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
    return float(points[point]), int(candidate)


def _halves(world: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A half that chooses and a half, the larger one, that judges."""
    order = rng.permutation(len(world))
    half = len(world) // 2
    return world[order[:half]], world[order[half:]]
