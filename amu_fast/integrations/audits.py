"""Scores of whole parts under a trainer's model, and what a fixed attack makes of them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object  # type: ignore[import-untyped]

from amu_fast.audit.delong import auc_interval
from amu_fast.audit.intervals import TOST_LEVEL, Interval, accuracy_difference, equivalent, paired_t
from amu_fast.audit.language import sequence_log_likelihood
from amu_fast.audit.metrics import Array
from amu_fast.audit.predict import eval_mode
from amu_fast.audit.scores import ModelOutputs, ScoreMap, log_likelihood
from amu_fast.audit.sequences import SequenceTokens
from amu_fast.audit.token_score import token_score
from amu_fast.errors import DataError
from amu_fast.integrations.batches import share_of
from amu_fast.unlearn.door import own_randomness
from amu_fast.unlearn.objectives import outputs_of

if TYPE_CHECKING:
    from amu_fast.integrations.trainer import UnlearnTrainer


@dataclass(frozen=True)
class Audit:
    """What one attack found between the forget rows and rows outside the game.

    Attributes:
        step: Optimiser steps done.
        attack: Name of the attack.
        against: Part of the non-members: "tune" or "test".
        auc: With its 95 % interval; by persons if rows have clusters (docs/statistics.md S3, S4).
        difference: 90 % interval of AUC less the reference, for the equivalence test (S6, S7).
        margin: Of the equivalence test.
        equivalent: Whether the test passed.
        gap: Mean score of the forget rows less the others'.
        in_game: Whether the game's auditor sees this very score.
        accuracy: Of the model on the non-members; of a language model the mean share of a row's counted tokens.
        accuracy_change: 90 % interval of the accuracy less that of the run's first audit, paired by rows, or by persons
            if rows have clusters; None: there was none against this part.
    """

    step: int
    attack: str
    against: str
    auc: Interval
    difference: Interval
    margin: float
    equivalent: bool
    gap: float
    in_game: bool
    accuracy: float
    accuracy_change: Interval | None


@dataclass(frozen=True, eq=False)
class Scored:
    """Of each row or packed sequence, (n,): its score, the share of it that was guessed, and its person if it says."""

    scores: Array
    correct: Array
    clusters: Array | None


def usual_score(outputs: ModelOutputs) -> torch.Tensor:
    """Mean log p of a sequence's counted tokens, or log p of a class."""
    return sequence_log_likelihood(outputs) if outputs.logits.dim() == 3 else log_likelihood(outputs)


def score_rows(
    trainer: UnlearnTrainer, part: str, score: ScoreMap = usual_score, *, calibrated: bool = False
) -> Scored:
    """Score all rows of a part in eval mode, shared among the ranks; moves neither modes nor random numbers.

    Args:
        trainer: Whose model, collator and data sets.
        part: Name of the part.
        score: Its first column counts.
        calibrated: Subtract the rows' key "reference".

    Returns:
        The same on every rank, in the order of the rows.

    Raises:
        DataError: A score that is not finite, or no reference to subtract.
    """
    rows, world = trainer.splits.part(part), trainer.accelerator.num_processes
    mine = share_of(len(rows), trainer.accelerator.process_index, world)
    size = trainer.args.per_device_eval_batch_size
    # wrappers that gather weights forward on all ranks or on none: who has fewer batches repeats its last
    largest = -(-len(rows) // world)
    batches = -(-largest // size)
    found: list[tuple[Array | None, ...]] = []
    seed = trainer.args.seed
    own = own_randomness(trainer.args.device, seed)
    with torch.no_grad(), eval_mode(trainer.network), own, data_randomness(seed, 0):
        for number in range(batches):
            chosen = mine[number * size : (number + 1) * size]
            result = _batch(trainer, [rows[row] for row in chosen or [0]], score, calibrated)
            found += [result] if chosen else []
    scores, correct, clusters = (_joined(gather_object([_joined([row[k] for row in found])])) for k in range(3))
    if scores is None or correct is None or not np.isfinite(scores).all():
        raise DataError(f"scores of {part} rows are not finite; look for rows without counted labels")
    return Scored(scores, correct, clusters)


def accuracy_change(now: Scored, first: Array) -> Interval:
    """90 % interval of the accuracy on the same rows less that when `first` was their `correct`.

    Source: docs/statistics.md, S4; Agresti and Min for rows of one label each, Student's t for shares and persons.
    """
    if now.clusters is None:
        either = np.isin(np.concatenate([now.correct, first]), (0.0, 1.0)).all()
        return (accuracy_difference if either else paired_t)(now.correct, first, TOST_LEVEL)
    persons = [now.clusters == person for person in np.unique(now.clusters)]
    after, before = ([column[rows].mean() for rows in persons] for column in (now.correct, first))
    return paired_t(after, before, TOST_LEVEL)


def judge(
    members: Scored,
    others: Scored,
    *,
    step: int,
    attack: str,
    against: str,
    reference: float,
    margin: float,
    in_game: bool,
    first: Array | None = None,
) -> Audit:
    """DeLong's interval of the attack's AUC, the equivalence test of AUC = reference, and the change of accuracy."""
    clusters = None
    if members.clusters is not None and others.clusters is not None:
        clusters = members.clusters, others.clusters
    wide, narrow = (
        auc_interval(members.scores, others.scores, level=level, clusters=clusters) for level in (0.95, TOST_LEVEL)
    )
    difference = replace(
        narrow, value=narrow.value - reference, low=narrow.low - reference, high=narrow.high - reference
    )
    gap = float(members.scores.mean() - others.scores.mean())
    return Audit(
        step,
        attack,
        against,
        wide,
        difference,
        margin,
        equivalent(difference, margin),
        gap,
        in_game,
        float(others.correct.mean()),
        None if first is None else accuracy_change(others, first),
    )


@contextmanager
def data_randomness(seed: int, number: int) -> Iterator[None]:
    """Inside, the host's global generators depend on (seed, number) only; afterwards they are as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    mixed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)  # noqa: NPY002
    torch.default_generator.manual_seed(mixed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def _batch(trainer: UnlearnTrainer, rows: list[Any], score: ScoreMap, calibrated: bool) -> tuple[Array | None, ...]:
    part = trainer.move(trainer.part_collator.part(rows))
    hidden = bool(getattr(score, "needs_hidden", False))
    outputs = outputs_of(trainer.network, part, gradient=False, hidden=hidden)
    with torch.autocast(outputs.logits.device.type, enabled=False):
        values, correct = score(outputs)[:, 0].double(), guessed(outputs).double()
    if calibrated:
        if outputs.reference is None:
            raise DataError("a calibrated attack needs the key 'reference' in every row: mean_log_likelihoods gives it")
        values = values - outputs.reference.double()
    clusters = part["clusters"].cpu().numpy() if "clusters" in part else None
    return values.cpu().numpy(), correct.cpu().numpy(), clusters


@token_score("margin")
def _share_guessed(tokens: SequenceTokens, outputs: ModelOutputs) -> torch.Tensor:
    """(S, 1): share of the counted tokens that are the model's first guess."""
    return tokens.mean((tokens.margin > 0).to(tokens.margin.dtype))


def guessed(outputs: ModelOutputs) -> torch.Tensor:
    """(n,): whether the first guess is the label, or the share of a sequence's counted tokens for which it is."""
    if outputs.logits.dim() == 3:
        return _share_guessed(outputs)[:, 0]
    return outputs.logits.argmax(-1) == outputs.labels


def _joined(pieces: list[Array | None]) -> Array | None:
    present = [piece for piece in pieces if piece is not None]
    return np.concatenate(present) if present else None


def figures(audit: Audit) -> dict[str, float]:
    """What is logged of an audit."""
    name = f"audit_{audit.against}_{audit.attack}"
    values = {"auc": audit.auc.value, "low": audit.auc.low, "high": audit.auc.high, "gap": audit.gap}
    logged = {f"{name}_{key}": value for key, value in values.items() if math.isfinite(value)}
    if audit.accuracy_change is not None:
        logged[f"{name}_accuracy_low"] = audit.accuracy_change.low
    return {**logged, f"{name}_equivalent": float(audit.equivalent), f"{name}_accuracy": audit.accuracy}
