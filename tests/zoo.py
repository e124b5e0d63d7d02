"""Random auditing batches for the tests, reproducible by seed, as numpy arrays.

Cases cover sizes, losses, payoffs, standardisation, ragged groups, ignored rows, rows in neither set and rows
planted exactly on a kink of the follower's loss or of the payoff.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import oracle

LOSSES = ("logistic", "squared_hinge", "huberised_hinge")
PAYOFFS = ("hinge", "logistic")


@dataclass(frozen=True)
class Case:
    """One batch: arrays as `auditor_step` takes them, and the options of follower and payoff."""

    scores: np.ndarray
    labels: np.ndarray
    train_masks: np.ndarray
    groups: np.ndarray
    num_groups: int
    held_out_masks: np.ndarray | None = None
    loss: str = "squared_hinge"
    l2: float = 1e-2
    width: float = 0.5
    payoff: str = "hinge"
    standardize: bool = False
    normaliser: int | None = None

    def truth(self, dtype=np.longdouble):
        """The oracle's result."""
        return oracle.auditor_step(
            self.scores, self.labels, follower=oracle.Follower(self.loss, self.l2, self.width),
            train_masks=self.train_masks, held_out_masks=self.held_out_masks, groups=self.groups,
            num_groups=self.num_groups, payoff=self.payoff, standardize=self.standardize,
            normaliser=self.normaliser, dtype=dtype,
        )  # fmt: skip

    def __str__(self):
        n, d = self.scores.shape
        return (
            f"{self.loss} l2={self.l2:g} width={self.width:g} {self.payoff} standardize={self.standardize} "
            f"N={n} d={d} G={self.num_groups} K={len(self.train_masks)}"
        )


def split(rng, groups, labels, num_groups, folds):
    """Training masks (folds, N): 7/10 of each (group, membership) cell, drawn anew per fold."""
    masks = np.zeros((folds, len(labels)), bool)
    for fold in masks:
        for g in range(num_groups):
            for side in (-1, 1):
                cell = rng.permutation(np.flatnonzero((groups == g) & (labels == side)))
                if len(cell) >= 2:
                    fold[cell[: min(len(cell) - 1, max(1, (7 * len(cell) + 5) // 10))]] = True
    return masks


def random_case(rng, *, cells, d, folds=1, signal=1.0, ignored=0, centred=False, **options):
    """A batch with `cells[g]` rows a side in group g and `ignored` rows of group −1, in random order.

    Rows are correlated normals around a random mean, or independent standard normals if `centred`; the two
    sides are `signal` away from the middle.
    """
    groups = np.repeat(np.concatenate([np.arange(len(cells)), [-1]]), [*(2 * np.asarray(cells)), ignored])
    labels = np.concatenate([np.repeat([-1.0, 1.0], c) for c in cells] + [rng.choice([-1.0, 1.0], ignored)])
    order = rng.permutation(len(labels))
    groups, labels = groups[order], labels[order]
    direction = rng.standard_normal(d) / np.sqrt(d)
    mixing = np.eye(d) + 0.3 * rng.standard_normal((d, d)) / np.sqrt(d)
    scores = rng.standard_normal((len(labels), d))
    if not centred:
        scores = scores @ mixing + rng.standard_normal(d)
    scores += signal * labels[:, None] * direction
    masks = split(rng, groups, labels, len(cells), folds)
    return Case(scores, labels, masks, groups, len(cells), **options)


def with_bank(rng, case, share=0.2):
    """The case with explicit held-out masks: some rows in neither set, others training rows of every fold."""
    bank = rng.random(len(case.labels)) < share
    absent = rng.random(case.train_masks.shape) < share
    train = case.train_masks & ~absent | bank
    for k, g in np.ndindex(len(train), case.num_groups):
        cells = [(case.groups == g) & (case.labels == side) for side in (-1, 1)]
        if any((train[k] & cell).sum() < 2 for cell in cells):
            train[k] = np.where(case.groups == g, case.train_masks[k], train[k])
    held_out = ~case.train_masks & ~train & ~absent
    return replace(case, train_masks=train, held_out_masks=held_out, normaliser=int((~bank).sum()))


def plant_held_out_kink(rng, case):
    """Move one held-out row of every problem of a one-fold case to margin 1 exactly (to rounding)."""
    scores = case.scores.copy()
    for problem in case.truth().problems.values():
        j = rng.integers(len(problem.held_rows))
        w = problem.w[:-1]
        x = problem.h[j, :-1] + w * (problem.z[j] - problem.h[j] @ problem.w) / (w @ w)
        row = problem.held_rows[j]
        if case.standardize:
            train = case.scores[problem.train_rows].astype(np.longdouble)
            x = oracle.moments(train)[0] + x * problem.sd
        scores[row] = x.astype(np.float64)
    return replace(case, scores=scores)


def plant_train_kink(rng, case):
    """Move one training row of every problem of a one-fold, unstandardised hinge case to margin 1 exactly.

    A row at margin 1 has ℓ' = 0: the optimum is that of the other n−1 rows at l2·n/(n−1), whatever the row.
    """
    scores = case.scores.copy()
    for problem in case.truth().problems.values():
        n = len(problem.y)
        i = rng.integers(n)
        rest = np.arange(n) != i
        follower = replace(problem.follower, l2=problem.follower.l2 * n / (n - 1))
        w = oracle.optimum(follower, problem.x[rest], problem.y[rest])
        shift = (problem.y[i] - problem.x[i] @ w) / (w[:-1] @ w[:-1])
        scores[problem.train_rows[i]] = (problem.x[i, :-1] + w[:-1] * shift).astype(np.float64)
    return replace(case, scores=scores)


def grid_zoo(rng, groups=1, **options):
    """One case per size, l2, loss and payoff over the range for which the bounds are claimed: 288 cases."""
    axes = ((10, 18, 100, 250), (4, 11, 64, 101), (1e-3, 1e-2, 1e-1), LOSSES, PAYOFFS)
    return [
        random_case(
            rng, cells=[cell] * groups, d=d, l2=l2, loss=loss, payoff=payoff,
            signal=rng.choice([0.0, 1.0, 3.0]), **options,
        )
        for cell, d, l2, loss, payoff in itertools.product(*axes)
    ]  # fmt: skip


def hard_zoo(rng, count):
    """About `count` problems, of which half have a row planted on a kink and the rest are standardised."""
    cases, problems = [], 0
    while problems < count:
        cell, d = int(rng.choice([10, 18, 100])), int(rng.choice([4, 11, 64, 101]))
        case = random_case(
            rng, cells=[cell] * 3, d=d, signal=rng.choice([0.0, 1.0, 3.0]), loss=str(rng.choice(LOSSES)),
            l2=float(rng.choice([1e-3, 1e-2, 1e-1])), payoff=str(rng.choice(PAYOFFS)),
            standardize=len(cases) % 2 == 0, width=float(rng.choice([0.2, 0.5, 1.0])),
        )  # fmt: skip
        if len(cases) % 4 in (0, 1):
            case = plant_held_out_kink(rng, case)
        elif len(cases) % 4 == 3:
            case = plant_train_kink(rng, replace(case, loss=str(rng.choice(LOSSES[1:]))))
        cases.append(case)
        problems += case.num_groups
    return cases
