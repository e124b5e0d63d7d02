"""What a language model is judged by: four accuracies and three attacks from outside the game, by author (S4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amu_fast.audit.attacks.svm import fit_margin
from amu_fast.audit.delong import auc_difference, auc_interval
from amu_fast.audit.intervals import TOST_LEVEL, Interval, equivalent
from amu_fast.audit.language import EIGHT, HiddenState, eight_scores
from amu_fast.audit.metrics import auc
from amu_fast.audit.predict import eval_mode
from amu_fast.experiments.language.data import Part, size, take, trimmed
from amu_fast.unlearn.objectives import outputs_of

Array = NDArray[np.float64]

ACCURACIES = ("retain_accuracy", "forget_accuracy", "test_accuracy", "general_accuracy")
ATTACKS = ("calibrated_auc", "svm_auc")
HEADLINE = (*ACCURACIES, *ATTACKS)
"""The metrics of the average gap. None of the attacks is the game's, though two of the SVM's eight scores are.

The probe of hidden states is in the panel only: on small models it sees members weakly if at all in the original, its
positive control (S11).
"""

_L2 = 1e-2  # of both fitted attacks, on standardised columns
_FORWARD_ROWS = 200


@dataclass(frozen=True, eq=False)
class PartOutputs:
    """What a model said of one part's rows.

    Attributes:
        scores: (n, 8) of `eight_scores`; the first is the mean log p.
        hidden: (n, ≤ 64) mean of the last hidden states over the counted tokens.
        accuracy: Share of all counted tokens that are the model's first guess.
        clusters: (n,) authors.
    """

    scores: Array
    hidden: Array
    accuracy: float
    clusters: NDArray[np.int64]


Outputs = Mapping[str, PartOutputs]


@torch.no_grad()
def outputs_on(model: nn.Module, part: Part) -> PartOutputs:
    """Everything that the judge wants to know of one part."""
    hidden_map = HiddenState()
    scores, hidden, right, counted = [], [], 0, 0
    with eval_mode(model):
        for index in torch.arange(size(part)).split(_FORWARD_ROWS):
            outputs = outputs_of(model, trimmed(take(part, index)), gradient=False, hidden=True)
            scores.append(eight_scores(outputs))
            hidden.append(hidden_map(outputs))
            targets = outputs.labels[:, 1:]
            hits = (outputs.logits[:, :-1].argmax(-1) == targets) & (targets != -100)
            right += int(hits.sum())
            counted += int((targets != -100).sum())
    return PartOutputs(_array(scores), _array(hidden), right / counted, part["clusters"].numpy())


def headline(outputs: Outputs, references: Sequence[Outputs]) -> dict[str, float]:
    """The headline metrics, as fractions.

    Args:
        outputs: Of the judged model on "retain", "forget", "validation" (outside the game), "test", "general".
        references: Of models that never saw the forget rows, for the calibrated attack.
    """
    members, others = calibrated(outputs, references)
    parts = (outputs[name.removesuffix("_accuracy")] for name in ACCURACIES)
    accuracies = {name: part.accuracy for name, part in zip(ACCURACIES, parts, strict=True)}
    return {
        **accuracies,
        "calibrated_auc": float(auc(members, others)),
        "svm_auc": fitted_auc(outputs, lambda part: part.scores),
    }


def panel(outputs: Outputs) -> dict[str, float]:
    """AUC of the probe of hidden states and of each of the eight scores alone, and the loss gap."""
    forget, test = outputs["forget"].scores, outputs["test"].scores
    single = {f"{name}_auc": float(auc(forget[:, k], test[:, k])) for k, name in enumerate(EIGHT)}
    probe = fitted_auc(outputs, lambda part: part.hidden)
    return {"hidden_auc": probe, **single, "loss_gap": float(test[:, 0].mean() - forget[:, 0].mean())}


def calibrated(outputs: Outputs, references: Sequence[Outputs]) -> tuple[Array, Array]:
    """Mean log p less the references' mean of it, of forget and of test rows."""
    forget, test = (
        outputs[part].scores[:, 0] - np.mean([r[part].scores[:, 0] for r in references], axis=0)
        for part in ("forget", "test")
    )
    return forget, test


def fitted_auc(outputs: Outputs, columns: Callable[[PartOutputs], Array]) -> float:
    """AUC of a linear SVM fitted on half of the forget authors against held-out authors, judged on the other half (S3).

    The mean of both halves' turns. Validation rows that the game never saw are the non-members of the fit, test rows
    those of the judgement, so no author is on both sides of a split.
    """
    forget, test = outputs["forget"], outputs["test"]
    authors = np.unique(forget.clusters)
    first = np.isin(forget.clusters, authors[: len(authors) // 2])
    values = []
    for half in (first, ~first):
        margin = fit_margin(columns(forget)[half], columns(outputs["validation"]), _L2)
        values.append(float(auc(margin(columns(forget)[~half]), margin(columns(test)))))
    return sum(values) / len(values)


@dataclass(frozen=True)
class Controls:
    """Whether there is something to forget and the attack sees it (S11), for one unit, by author.

    Attributes:
        positive: AUC of the calibrated attack on the original, with its 95 % interval over authors.
        negative: The same on the second retrained model minus that on the first, with its 90 % interval over authors.
    """

    positive: Interval
    negative: Interval

    @staticmethod
    def of(models: Mapping[str, Outputs], references: Sequence[Outputs]) -> Controls:
        """From the outputs of "original", "retrain" and "floor"."""
        scores = {name: calibrated(models[name], references) for name in ("original", "retrain", "floor")}
        clusters = models["retrain"]["forget"].clusters, models["retrain"]["test"].clusters
        return Controls(
            auc_interval(*scores["original"], clusters=clusters),
            auc_difference(scores["floor"], scores["retrain"], level=TOST_LEVEL, clusters=clusters),
        )

    @property
    def passed(self) -> bool:
        """Lower bound on the original's AUC ≥ .55, and the second retrain equivalent to the first within .05."""
        return self.positive.low >= 0.55 and equivalent(self.negative, 0.05)


def _array(blocks: list[Tensor]) -> Array:
    return torch.cat(blocks).double().numpy()
