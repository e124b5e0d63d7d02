"""What the comparison reports of a model beyond headline and panel: attacks that no method trains against, and ToW."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from amu_fast.audit.attacks import ConfidenceSvm, ModifiedEntropy, Rmia, SplitOutputs
from amu_fast.audit.attacks.shadows import Shadows, ShadowScores
from amu_fast.experiments.evaluate import HEADLINE, headline
from amu_fast.experiments.units import Unit

_SVM_ROWS = 1000  # the support vector machine's time grows with their square
_ACCURACIES = ("retain_accuracy", "forget_accuracy", "test_accuracy")


def more(unit: Unit, outputs: SplitOutputs) -> dict[str, float]:
    """Figures by name: "tow", "modified_entropy_auc", "rmia_auc" (offline), "mia_efficacy"."""
    mine, retrain = (headline(o, unit.references, unit.attacked) for o in (outputs, unit.outputs["retrain"]))
    seen = unit.attacked(outputs)
    rows = min(_SVM_ROWS, len(seen.test), len(seen.require("retain")))
    few = replace(seen, test=seen.test.take(np.arange(rows)))
    return {
        "tow": tug_of_war({name: mine[name] - retrain[name] for name in HEADLINE}),
        "modified_entropy_auc": ModifiedEntropy().run(seen).auc.value,
        "rmia_auc": Rmia(_shadows(unit)).run(seen).auc.value,
        "mia_efficacy": ConfidenceSvm().run(few).efficacy.value,
    }


def tug_of_war(differences: Mapping[str, float]) -> float:
    """ToW = Π over retain, forget and test accuracy of (1 − |difference to retrain|); 1 is retrain itself.

    Source: Zhao et al., NeurIPS 2024 (arXiv 2406.01257).

    >>> round(tug_of_war({"retain_accuracy": 0.0, "forget_accuracy": 0.1, "test_accuracy": -0.5}), 3)
    0.45
    """
    product = 1.0
    for name in _ACCURACIES:
        product *= 1.0 - abs(differences[name])
    return product


def _shadows(unit: Unit) -> Shadows:
    """The unit's references: none of them saw a forget, a test or a validation row."""
    seen = [unit.attacked(reference) for reference in unit.references]

    def scores(part: str) -> ShadowScores:
        phi = np.stack([reference.require(part).require("phi") for reference in seen])
        return ShadowScores(phi, np.zeros(phi.shape, dtype=bool))

    return Shadows(scores("forget"), scores("test"), scores("validation"))
