"""What a model is judged by in an experiment: four headline metrics and a panel of attacks from outside the game."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from amu_fast.audit.attacks import CalibratedLoss, LinearSvmAttack, LossThreshold, PaperAttack, SplitOutputs
from amu_fast.audit.attacks.outputs import Outputs
from amu_fast.audit.intervals import TOST_LEVEL, Interval, equivalent
from amu_fast.audit.metrics import auc, ks_statistic, utility, wasserstein_1

HEADLINE = ("retain_accuracy", "forget_accuracy", "test_accuracy", "attack_auc")
"""The metrics of the average gap and of the attained margin; the attack is the calibrated loss."""

CONTROL_LOWER_BOUND = 0.55
CONTROL_MARGIN = 0.05

Figures = Mapping[str, float]
View = Callable[[SplitOutputs], SplitOutputs]


def headline(
    outputs: SplitOutputs, references: Sequence[SplitOutputs], attacked: View = lambda outputs: outputs
) -> dict[str, float]:
    """The headline metrics, as fractions.

    Args:
        outputs: Of the judged model on all four parts.
        references: Of models trained without the forget rows, none of them the retrained model of the comparison.
        attacked: What an attack sees of a model's outputs: of the test rows those that are like the forget rows (S6).
    """
    members, nonmembers = calibrated_scores(attacked(outputs), [attacked(reference) for reference in references])
    accuracies = (_accuracy(outputs.require(part)) for part in ("retain", "forget", "test"))
    return dict(zip(HEADLINE, (*accuracies, auc(members, nonmembers)), strict=True))


def panel(outputs: SplitOutputs, seed: int = 0) -> dict[str, float]:
    """Everything else that is reported: attacks that are too weak to judge by, and distances of losses.

    KS and Wasserstein-1 compare the losses of forget and test rows and are never 0 by chance (S10); "utility" is test
    accuracy minus the accuracy of the paper's attack.
    """
    paper, svm = PaperAttack(seed=seed).run(outputs), LinearSvmAttack(seed=seed).run(outputs)
    forget, test = (outputs.require(part).require("loss") for part in ("forget", "test"))
    figures = {
        "paper_accuracy": paper.accuracy,
        "paper_auc": paper.auc.value,
        "paper_f1": paper.f1,
        "svm_auc": svm.auc.value,
        "loss_auc": LossThreshold(seed=seed).run(outputs).auc.value,
        "ks": ks_statistic(forget, test),
        "wasserstein_1": wasserstein_1(forget, test),
        "utility": utility(_accuracy(outputs.test), paper.accuracy or 0.0),
    }
    return {name: float(value) for name, value in figures.items() if value is not None}


@dataclass(frozen=True)
class Controls:
    """Whether a task has something to forget and the attack sees it (S11), for one unit.

    Attributes:
        positive: AUC of the calibrated loss on the original, with its 95 % interval over rows.
        negative: AUC on the second retrained model minus that on the first, with its 90 % interval over rows.
    """

    positive: Interval
    negative: Interval

    @staticmethod
    def of(models: Mapping[str, SplitOutputs], references: Sequence[SplitOutputs]) -> Controls:
        """From the outputs of "original", "retrain" and "floor"."""
        attack = CalibratedLoss(tuple(references))
        results = {name: attack.run(models[name]) for name in ("original", "retrain", "floor")}
        difference = results["floor"].difference_to(results["retrain"], level=TOST_LEVEL)
        return Controls(results["original"].auc, difference)

    @property
    def passed(self) -> bool:
        """Lower bound on the original's AUC ≥ .55, and the second retrain equivalent to the first within .05."""
        return self.positive.low >= CONTROL_LOWER_BOUND and equivalent(self.negative, CONTROL_MARGIN)


def calibrated_scores(outputs: SplitOutputs, references: Sequence[SplitOutputs]) -> tuple:
    """Scores of forget and of test rows under the calibrated loss attack."""
    result = CalibratedLoss(tuple(references)).run(outputs)
    return result.member_scores, result.nonmember_scores


def differences(model: Figures, retrain: Figures) -> dict[str, float]:
    """Signed headline differences to retrain, as fractions."""
    return {name: model[name] - retrain[name] for name in HEADLINE}


def _accuracy(outputs: Outputs) -> float:
    assert outputs.correct is not None
    return float(outputs.correct.mean())
