"""From the outputs of a model, of its reference and of its controls to the verdict: controls run by default (S11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from amu_fast.audit.attacks import CalibratedLoss, LossThreshold, Outputs, SplitOutputs
from amu_fast.audit.attacks.result import AttackResult
from amu_fast.audit.claims import Claim, accuracy_claim
from amu_fast.audit.evidence import Evidence
from amu_fast.audit.intervals import accuracy_difference, clustered_mean
from amu_fast.audit.margins import Margins
from amu_fast.audit.multiplicity import IntervalAt
from amu_fast.audit.regions import Side
from amu_fast.audit.verdict import ChanceProof, Conditions, Verdict, decide
from amu_fast.errors import DataError
from amu_fast.protocols import Attack

MODELS = ("unlearned", "retrain", "original", "floor")
MAX_REQUIRED = 3

Models = Mapping[str, SplitOutputs]


def judge(
    models: Models,
    attacks: Sequence[Attack],
    *,
    margins: Margins | None = None,
    required: int = MAX_REQUIRED,
    chance: ChanceProof | None = None,
    conditions: Conditions | None = None,
) -> Verdict:
    """Attack all models alike and judge the unlearned one.

    The claims: each attack's AUC is the reference's; a score of fixed direction is not below it; the first attack's
    TPR keeps its bound; accuracies are the reference's. If none of the required attacks has a fixed direction, the loss
    is added as one that has (S12).

    Args:
        models: outputs, on the same rows, of "unlearned" and
            "retrain": trained without the forget rows. Absent: reference = none. Attacks are then compared with .5
            (S6), retain and test accuracy with the original's, test accuracy on V_tune where it is given, and forget
            accuracy is not claimed;
            "original": before unlearning, the positive control;
            "floor": another retrained model, the negative control. With reference = none it is V_tune against test,
            made from the unlearned model's `validation`, which must be V_tune then (S16).
        attacks: each gives an AttackResult from `SplitOutputs`; the first is the main one.
        margins: None: the defaults of S8.
        required: on how many of the attacks, from the first, the verdict rests; at most 3 (S9).
        chance: with reference = none: why .5 may be used.
        conditions: the rest of the verdict's table; reference = none and `chance` are filled in here.
    """
    margins = margins or Margins()
    _check(models, attacks, required)
    without = "retrain" not in models
    proven = without and chance is not None and chance.proven(margins.auc)
    evidence = [
        replace(collect(models, attack), required=index < required, chance_proven=proven)
        for index, attack in enumerate(attacks)
    ]
    if not any(e.fixed and e.required for e in evidence):
        evidence.append(replace(collect(models, _loss(evidence)), chance_proven=proven))
    claims = [claim for index, e in enumerate(evidence) for claim in e.claims(margins, tpr=index == 0)]
    conditions = conditions or Conditions()
    if without:
        conditions = replace(conditions, reference="none", chance_proven=proven)
    return decide([*claims, *accuracy_claims(models, margins)], conditions)


def collect(models: Models, attack: Attack) -> Evidence:
    """Run one attack on all the models that are there, and on V_tune against test where nothing was retrained."""
    on = {name: (_result(attack, models[name]),) if name in models else () for name in MODELS}
    clustered = any(_persons(getattr(models["unlearned"], part)) is not None for part in ("forget", "test"))
    evidence = Evidence(on["unlearned"], on["retrain"], on["original"], on["floor"], clustered=clustered)
    if evidence.retrain or evidence.floor or models["unlearned"].validation is None:
        return evidence
    # A fixed score needs no training rows, so that all of V_tune can stand for members.
    outputs = fresh_rows(models["unlearned"], trained=not evidence.fixed)
    return replace(evidence, floor=(_result(_for_fresh_rows(attack, not evidence.fixed), outputs),))


def fresh_rows(outputs: SplitOutputs, trained: bool) -> SplitOutputs:
    """V_tune in the place of the forget rows, against the same test rows: nobody there is a member.

    Args:
        outputs: with V_tune as `validation`.
        trained: for a trained attack, one half stands for the forget rows and the other stays validation.
    """
    validation = outputs.require("validation")
    if not trained:
        return SplitOutputs(validation, outputs.test)
    half = len(validation) // 2
    if half < 2:
        raise DataError(f"V_tune has {len(validation)} rows, too few to halve for a negative control; give at least 4")
    return SplitOutputs(_part(validation, slice(half)), outputs.test, _part(validation, slice(half, None)))


def accuracy_claims(models: Models, margins: Margins) -> tuple[Claim, ...]:
    """Accuracy of the unlearned model against the reference's, on the same rows.

    Test accuracy is non-inferior, retain and forget accuracy equivalent. Without a retrained model the original is the
    reference: V_tune's accuracy (test's where there is no V_tune) is non-inferior, retain's likewise, and there is no
    claim on forget accuracy, which is meant to change.
    """
    unlearned, retrain = models["unlearned"], models.get("retrain")
    wanted: list[tuple[str, float | None, Side]]
    if retrain is not None:
        reference: SplitOutputs | None = retrain
        wanted = [
            ("test", margins.test_accuracy, "at_least"),
            ("retain", margins.retain_accuracy, "both"),
            ("forget", margins.forget_accuracy, "both"),
        ]
    else:
        reference = models.get("original")
        part = "test" if unlearned.validation is None else "validation"
        wanted = [(part, margins.test_accuracy, "at_least"), ("retain", margins.retain_accuracy, "at_least")]
    return tuple(
        accuracy_claim(f"{part} accuracy", _correctness(unlearned, reference, part), margin, side=side)
        for part, margin, side in wanted
        if margin is not None
    )


def _correctness(model: SplitOutputs, reference: SplitOutputs | None, part: str) -> IntervalAt | None:
    """Interval of the difference on one part at a level; None where it was not measured."""
    first = getattr(model, part)
    second = getattr(reference, part) if reference is not None else None
    if first is None or second is None or first.correct is None or second.correct is None:
        return None
    clusters = _persons(first)
    if clusters is None:
        return lambda level: accuracy_difference(first.correct, second.correct, level)
    difference = first.correct.astype(float) - second.correct.astype(float)
    return lambda level: clustered_mean(difference, clusters, level)


def _persons(outputs: Outputs) -> Any:
    """Person of each row, where the outputs name them (S4)."""
    return getattr(outputs, "clusters", None)


def _check(models: Models, attacks: Sequence[Attack], required: int) -> None:
    if "unlearned" not in models:
        raise DataError(f'models must hold "unlearned", got {sorted(models)}; pass the outputs of the judged model')
    unknown = sorted(set(models) - set(MODELS))
    if unknown:
        raise DataError(f"models may hold {MODELS}, got {unknown}; rename or drop them")
    if len({attack.name for attack in attacks}) != len(attacks):
        raise DataError(f"attacks must have different names, got {[attack.name for attack in attacks]}")
    if not 0 <= required <= MAX_REQUIRED:
        raise DataError(f"required must be 0 ... {MAX_REQUIRED} attacks (S9), got {required}; report the rest beside")


def _loss(evidence: Sequence[Evidence]) -> LossThreshold:
    """The loss; counted as in the game if any attack was, since a game on the loss is the common one."""
    taken = any(e.name == "loss" for e in evidence)
    in_game = any(e.in_game for e in evidence)
    return LossThreshold(in_game=in_game, name="loss, fixed direction" if taken else "loss")


def _result(attack: Attack, outputs: SplitOutputs) -> AttackResult:
    result = attack.run(outputs, None)
    if not isinstance(result, AttackResult):
        raise DataError(
            f"{attack.name!r} returned a {type(result).__name__}; a claim needs an AttackResult with scores per row"
        )
    return result


def _for_fresh_rows(attack: Attack, trained: bool) -> Attack:
    """The attack with its references' V_tune rows in the place of their forget rows."""
    if not isinstance(attack, CalibratedLoss):
        return attack
    return replace(attack, references=tuple(fresh_rows(SplitOutputs.of(r), trained) for r in attack.references))


def _part(outputs: Outputs, rows: slice) -> Outputs:
    values = {name: value[rows] for name, value in vars(outputs).items() if isinstance(value, np.ndarray)}
    return Outputs(**values)
