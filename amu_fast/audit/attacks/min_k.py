"""Attacks on language models from token logits: the least likely tokens, how much is extracted, how much leaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amu_fast.audit.attacks.result import FPRS, AttackResult
from amu_fast.audit.language import MinK, MinKPlusPlus
from amu_fast.audit.metrics import Array, as_scores
from amu_fast.audit.scores import ModelOutputs, ScoreMap
from amu_fast.audit.sequences import SequenceTokens
from amu_fast.errors import DataError

Batches = ModelOutputs | Sequence[ModelOutputs]


@dataclass(frozen=True)
class MinKAttack:
    """Score = mean of the lowest `ratio` of log p_t, at least one token: `amu_fast.audit.MinK`, which has its source.

    Attributes:
        ratio: share of the tokens; .4 for PrivLeak.
        fprs: false-positive rates to report.
        level: coverage of the intervals.
        seed: seed of the bootstrap.
        in_game: whether this was a score of the game.
        name: name in tables.
    """

    ratio: float = 0.2
    fprs: tuple[float, ...] = FPRS
    level: float = 0.95
    seed: int = 0
    in_game: bool = False
    name: str = "min-k %"

    def run(self, target: tuple[Batches, Batches], splits: Any = None, *, clusters: Any = None) -> AttackResult:
        """Attack outputs of a language model.

        Args:
            target: outputs of member and of non-member sequences, whole or in batches.
            splits: not used.
            clusters: author of each member and of each non-member sequence, if they repeat (S4).
        """
        return _run(self, MinK(self.ratio), target, clusters)


@dataclass(frozen=True)
class MinKPlusPlusAttack:
    """Score = mean of the lowest `ratio` of (log p_t - mu_t)/sigma_t: `amu_fast.audit.MinKPlusPlus`.

    Attributes:
        ratio: share of the tokens.
        fprs: false-positive rates to report.
        level: coverage of the intervals.
        seed: seed of the bootstrap.
        in_game: whether this was a score of the game.
        name: name in tables.
    """

    ratio: float = 0.2
    fprs: tuple[float, ...] = FPRS
    level: float = 0.95
    seed: int = 0
    in_game: bool = False
    name: str = "min-k %++"

    def run(self, target: tuple[Batches, Batches], splits: Any = None, *, clusters: Any = None) -> AttackResult:
        """Attack outputs of a language model, as `MinKAttack.run`."""
        return _run(self, MinKPlusPlus(self.ratio), target, clusters)


@torch.no_grad()
def extraction_strength(outputs: Batches, end: int | None = None) -> Array:
    """1 - k/L per sequence, k = first of its L counted tokens from which on every teacher-forced argmax is right.

    1: the answer follows from the prompt alone; 0: not even the last token. Ties for the largest logit are not right.

    Args:
        outputs: of a language model, whole or in batches.
        end: the end-of-sequence token, which does not count; None: every token counts.

    Source: Carlini et al. 2021 (arXiv 2012.07805), as in TOFU's successors.
    """
    return np.concatenate([_strengths(batch, end) for batch in _batches(outputs)])


def privleak(unlearned: AttackResult, retrained: AttackResult) -> float:
    """((1 - AUC_u) - (1 - AUC_r))/(1 - AUC_r) x 100, AUCs of min-k 40 %: < 0 under-, > 0 over-unlearned.

    Source: Shi et al. 2024, MUSE (arXiv 2407.06460).
    """
    if unlearned.name != retrained.name:
        raise DataError(f"PrivLeak compares one attack on two models, got {unlearned.name!r} and {retrained.name!r}")
    left = 1.0 - retrained.auc.value
    if left <= 0:
        raise DataError(
            "PrivLeak is undefined for a retrained model of AUC 1; its non-members are of another kind (S6)"
        )
    return 100.0 * ((1.0 - unlearned.auc.value) - left) / left


def _run(attack: MinKAttack | MinKPlusPlusAttack, score: ScoreMap, target: Any, clusters: Any) -> AttackResult:
    if not isinstance(target, (tuple, list)) or len(target) != 2:
        raise DataError(f"{attack.name} takes a pair (member outputs, non-member outputs), got {type(target).__name__}")
    with torch.no_grad():
        sides = [as_scores(torch.cat([score(batch)[:, 0] for batch in _batches(side)])) for side in target]
    return AttackResult.of_scores(
        attack.name,
        *sides,
        fprs=attack.fprs,
        level=attack.level,
        seed=attack.seed,
        in_game=attack.in_game,
        clusters=clusters,
    )


def _batches(outputs: Batches) -> Sequence[ModelOutputs]:
    return [outputs] if isinstance(outputs, ModelOutputs) else outputs


def _strengths(outputs: ModelOutputs, end: int | None) -> Array:
    tokens = SequenceTokens.of(outputs, ("margin",)).each_counted()
    labels = outputs.labels[tokens.row, tokens.position]
    right = tokens.margin > 0
    sizes = tokens.counts.tolist()
    return np.array([_strength(r, y, end) for r, y in zip(right.split(sizes), labels.split(sizes), strict=True)])


def _strength(right: Tensor, labels: Tensor, end: int | None) -> float:
    counted = right if end is None else right[labels != end]
    if not len(counted):
        raise DataError(f"a sequence has no counted token but the end token {end}; leave it out")
    wrong = (~counted).nonzero().flatten()
    first = int(wrong[-1]) + 1 if len(wrong) else 0
    return 1.0 - first / len(counted)
