"""The two calls of a user who wants no details: unlearn a model, audit a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from amu_fast.audit.attacks import LinearSvmAttack, LossThreshold, Outputs, PaperAttack, SplitOutputs
from amu_fast.audit.intervals import accuracy_interval
from amu_fast.audit.scores import logits_and_loss
from amu_fast.errors import DataError
from amu_fast.report.provenance import Provenance
from amu_fast.report.report import AttackRecord, Metric, Report
from amu_fast.splits import PARTS, Splits
from amu_fast.unlearn.methods import ScoreMomentMatching, Stackelberg
from amu_fast.unlearn.result import Result

if TYPE_CHECKING:
    from amu_fast.audit.attacks import AttackResult
    from amu_fast.audit.metrics import Array
    from amu_fast.protocols import Attack, Method
    from amu_fast.rows import Part

_SHOWN_PARTS = ("retain", "forget", "test")


def unlearn(
    model: nn.Module,
    *,
    retain: Part,
    forget: Part,
    validation: Part,
    test: Part | None = None,
    method: Method | None = None,
    seed: int = 0,
) -> Result:
    """Make a copy of `model` that no longer knows the forget rows, and measure it on the test rows if given.

    Args:
        model: A trained classifier, `model(inputs)` -> logits (n, C) or an object with `.logits`; it is left unchanged.
        retain: Training rows to keep. Each part is a tuple of tensors, a map-style data set or a DataLoader.
        forget: Training rows to lose.
        validation: Rows never trained on, from the forget rows' distribution.
        test: Rows for the final figures; the method never sees them.
        method: Any object with `unlearn(model, splits, seed=)`; None: `Stackelberg()`.
        seed: Fixes the run.

    Returns:
        Result: `.model`, `.report`, `.save(directory)`.

    Raises:
        DataError: Unusable model, rows or options.
        SolveError: Training diverged.
    """
    splits = Splits(retain, forget, validation, test)
    method = Stackelberg() if method is None else method
    result = method.unlearn(model, splits, seed=seed)
    report = replace(result.report, provenance=Provenance.collect(method, splits))
    if test is None:
        return Result(result.model, report)
    before, after = (SplitOutputs.of(m, splits, parts=PARTS) for m in (model, result.model))
    losses = {"before": _losses(before), "after": _losses(after)}
    return Result(result.model, _measured(report, after, result.model, splits, method), losses)


def _measured(report: Report, outputs: SplitOutputs, model: nn.Module, splits: Splits, method: Method) -> Report:
    """The report with accuracies and attacks on the test rows; what cannot be computed is None with its reason."""
    metrics: dict[str, Metric] = {}
    for part in _SHOWN_PARTS:
        metrics[f"{part}_accuracy"] = Metric.of(accuracy_interval(outputs.require(part).correct))
    in_loss, in_logits = _in_game(method)
    attacks: list[AttackRecord] = []
    for attack in (LossThreshold(in_game=in_loss), PaperAttack(in_game=in_loss), LinearSvmAttack(in_game=in_logits)):
        record = _attacked(attack, outputs)
        if isinstance(record, AttackRecord):
            attacks.append(record)
        else:
            metrics[attack.name] = record
    if isinstance(method, (Stackelberg, ScoreMomentMatching)):
        game, _ = splits.split_validation(method.split_seed, method.game_fraction)
        pair = (Outputs.of_model(model, game), outputs.test)
        metrics["loss_auc_game_rows_vs_test"] = Metric.of(LossThreshold().run(pair).auc)
    return replace(report, metrics={**report.metrics, **metrics}, attacks=(*report.attacks, *attacks))


def _losses(outputs: SplitOutputs) -> dict[str, Array]:
    return {part: outputs.require(part).require("loss") for part in _SHOWN_PARTS}


def _attacked(attack: Attack, outputs: SplitOutputs) -> AttackRecord | Metric:
    """The attack's record, or why it could not be run on so few rows: a finished run is not lost for that."""
    try:
        return AttackRecord.of(attack.run(outputs, None))
    except DataError as error:
        return Metric(None, reason=str(error))


def _in_game(method: Method) -> tuple[bool, bool]:
    """Whether the loss, and whether the logits, were scores of the method's game."""
    if isinstance(method, Stackelberg):
        scores = method.auditor.scores
    elif isinstance(method, ScoreMomentMatching):
        scores = method.scores
    else:
        return False, False
    return True, scores is logits_and_loss


def audit(
    model_or_scores: Any,
    members: Any = None,
    nonmembers: Any = None,
    *,
    validation: Part | None = None,
    attacks: Sequence[Attack] | None = None,
) -> tuple[AttackResult, ...]:
    """Attack a model, or what a model released.

    Args:
        model_or_scores: A model, with `members` and `nonmembers` as rows; or an array (n,) of scores, higher for
            members, with `members` and `nonmembers` as row numbers of it; or a pair (members', non-members') of such
            arrays or of `Outputs.from_logits(logits, labels)`, `Outputs.from_probabilities(...)`.
        members: See above; None for a pair.
        nonmembers: See above; None for a pair.
        validation: With a model: further non-members, for attacks that are trained.
        attacks: None: loss threshold, the paper's attack and, where `validation` is given, a linear SVM on all scores.

    Returns:
        One AttackResult per attack, in order.

    Raises:
        DataError: Unusable rows, scores or options, or rows too few for an attack.

    >>> scores = torch.arange(40.0)
    >>> loss, paper = audit(scores, members=range(20, 40), nonmembers=range(20))
    >>> loss.auc.value
    1.0
    """
    outputs = _outputs(model_or_scores, members, nonmembers, validation)
    if attacks is None:
        attacks = [LossThreshold(), PaperAttack(), *([LinearSvmAttack()] if outputs.validation is not None else [])]
    return tuple(attack.run(outputs, None) for attack in attacks)


def _outputs(target: Any, members: Any, nonmembers: Any, validation: Part | None) -> SplitOutputs:
    if isinstance(target, (tuple, list, SplitOutputs)) and members is None and nonmembers is None:
        return SplitOutputs.of(target)
    if members is None or nonmembers is None:
        raise DataError(
            f"auditing a {type(target).__name__} needs members and nonmembers: rows for a model, row numbers for an "
            "array of scores; or pass a pair (member scores, non-member scores)"
        )
    if isinstance(target, nn.Module):
        third = None if validation is None else Outputs.of_model(target, validation)
        return SplitOutputs(Outputs.of_model(target, members), Outputs.of_model(target, nonmembers), third)
    scores = torch.as_tensor(target)
    first, second = (_row_numbers(index, len(scores)) for index in (members, nonmembers))
    shared = first[torch.isin(first, second)]
    if len(shared):
        raise DataError(f"members and nonmembers share {len(shared)} rows, among them {shared[:5].tolist()}")
    return SplitOutputs(Outputs.from_scores(scores[first]), Outputs.from_scores(scores[second]))


def _row_numbers(index: Any, size: int) -> Tensor:
    numbers = torch.as_tensor(index if isinstance(index, Tensor) else list(index))
    whole = not numbers.dtype.is_floating_point and numbers.dtype != torch.bool
    if not whole or numbers.numel() == 0 or int(numbers.min()) < 0 or int(numbers.max()) >= size:
        raise DataError(f"row numbers of the scores must lie in 0 to {size - 1}, got {numbers[:5].tolist()}")
    return numbers
