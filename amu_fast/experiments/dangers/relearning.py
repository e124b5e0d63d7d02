"""Relearning: are the forgotten rows gone, or a few training steps away?

Relearn time (after Golatkar, Achille and Soatto 2020): the first pass over the forget rows after which their loss is at
most 1.05 times the original's. The relearning attack: somebody holds a few of the forget rows, trains on them, and asks
whether the *others* come back. Both are read against a retrained model under the same treatment: that one learns too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import nn

from amu_fast.audit.attacks import LossThreshold, RelearnTime, mean_loss
from amu_fast.audit.metrics import accuracy
from amu_fast.audit.predict import predict
from amu_fast.errors import DataError
from amu_fast.experiments.dangers.cast import gap_to_reference
from amu_fast.experiments.dangers.report import DangerReport
from amu_fast.protocols import Attack
from amu_fast.rows import Rows
from amu_fast.splits import Splits
from amu_fast.unlearn.methods import FineTune
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.streams import generator


@dataclass(frozen=True)
class FastRelearning:
    """FAST_RELEARNING where a model relearns its forget rows in at most `share` of the epochs that retrain needs.

    Args:
        lr: As in `RelearnTime`.
        batch_size: Likewise.
        cap: Epochs after which to give up; a model that needs more counts as cap + 1.
        margin: Share by which the original's loss may be missed.
        share: Of retrain's epochs; a point value without an interval, so look at several seeds.
    """

    lr: float = 0.01
    batch_size: int = 64
    cap: int = 30
    margin: float = 0.05
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise DataError(f"share must lie in (0, 1], got {self.share}; .5 is half of retrain's epochs")

    def __call__(
        self, unlearned: nn.Module, retrain: nn.Module, original: nn.Module, splits: Splits, seed: int = 0
    ) -> DangerReport:
        """Compare a model with a retrained one under the same training."""
        time = RelearnTime(
            mean_loss(original, splits), self.lr, self.batch_size, margin=self.margin, cap=self.cap, seed=seed
        )
        results = [time.run(model, splits) for model in (unlearned, retrain)]
        mine, theirs = (self.cap + 1 if result.epochs is None else result.epochs for result in results)
        figures = {"passes": float(mine), "retrain_passes": float(theirs), "goal_loss": results[0].threshold}
        warnings: tuple[str, ...] = ()
        if mine <= self.share * theirs:
            warnings = (
                f"FAST_RELEARNING: the forget rows' loss is back after {mine} passes, a retrained model needs "
                f"{theirs}; they were hidden rather than forgotten",
            )
        return DangerReport("relearn time", figures, {}, warnings)


@dataclass(frozen=True)
class RelearningAttack:
    """Train on some forget rows, attack the others.

    RELEARNED where the AUC on the other forget rows against test rows exceeds the equally treated retrained model's by
    more than `margin` with its whole interval, and did not before the attack.

    Args:
        share: Of the forget rows in the attacker's hands.
        tuning: The attacker's training.
        attack: Judges; a score of fixed direction.
        margin: On the AUC.
        level: Of the intervals.
    """

    share: float = 0.2
    tuning: FineTune = field(
        default_factory=lambda: FineTune(5.0, Sgd(lr=0.01, weight_decay=0.0, schedule="constant"), 32)
    )
    attack: Attack = field(default_factory=LossThreshold)
    margin: float = 0.05
    level: float = 0.95

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise DataError(f"share must lie in (0, 1), got {self.share}; .2 leaves enough rows to judge")

    def __call__(self, unlearned: nn.Module, retrain: nn.Module, splits: Splits, seed: int = 0) -> DangerReport:
        """Attack a model and a retrained one alike."""
        forget = splits.rows("forget")
        count = round(self.share * len(forget))
        if not 0 < count < len(forget) - 1:
            raise DataError(f"share {self.share} of {len(forget)} forget rows leaves nothing to train on or to judge")
        order = torch.randperm(len(forget), generator=generator(seed, "relearning"))
        held, others = forget.take(order[:count], "held"), forget.take(order[count:], "others")
        judged = replace(splits, forget=others)
        tuned = [self.tuning.unlearn(m, _trained_on(held, splits), seed=seed).model for m in (unlearned, retrain)]
        before, _ = gap_to_reference(self.attack, unlearned, retrain, judged, self.level)
        after, aucs = gap_to_reference(self.attack, tuned[0], tuned[1], judged, self.level)
        figures = {"held_rows": float(count), "auc_after": aucs[0], "retrain_auc_after": aucs[1]}
        pairs = (("", (unlearned, tuned[0])), ("retrain_", (retrain, tuned[1])))
        for name, models in pairs:
            first, second = (accuracy(*predict(model, others)) for model in models)
            figures |= {f"{name}accuracy_before": first, f"{name}accuracy_after": second}
        warnings: tuple[str, ...] = ()
        if after.low > self.margin and not before.low > self.margin:
            warnings = (
                f"RELEARNED: training on {count} forget rows brings the other {len(others)} back, AUC "
                f"{after.value:+.3f} above retrain's under the same attack",
            )
        return DangerReport("relearning attack", figures, {"before": before, "after": after}, warnings)


def _trained_on(rows: Rows, splits: Splits) -> Splits:
    """Splits for a fine-tuning on `rows`, which reads no other part."""
    return Splits(rows, splits.rows("validation"), splits.rows("test"))
