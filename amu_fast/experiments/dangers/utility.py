"""What a request aims at, and what obeying it did: shares of classes before, accuracy of each class after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from amu_fast.audit.attacks import Outputs
from amu_fast.audit.intervals import accuracy_difference
from amu_fast.experiments.dangers.report import DangerReport
from amu_fast.rows import Part, Rows


@dataclass(frozen=True)
class CompositionAudit:
    """Does a request aim at one class?

    ONE_CLASS where it names more than `share` of a class's training rows, and more than chance would by the
    hypergeometric test at `alpha` over the number of classes.

    Args:
        share: Of a class's training rows.
        alpha: Of all the tests together.
    """

    share: float = 0.2
    alpha: float = 0.01

    def __call__(self, request: NDArray[np.int64] | Tensor, train: NDArray[np.int64] | Tensor) -> DangerReport:
        """Audit the classes of a request, (k,), against those of the training set, (n,), which holds its rows."""
        from scipy.stats import hypergeom

        mine, whole = (np.bincount(np.asarray(y), minlength=1) for y in (request, train))
        mine = np.pad(mine, (0, max(0, len(whole) - len(mine))))
        whole = np.pad(whole, (0, len(mine) - len(whole)))
        present = np.flatnonzero(mine)
        shares = mine[present] / np.maximum(whole[present], 1)
        p = hypergeom.sf(mine[present] - 1, whole.sum(), whole[present], mine.sum())
        worst = int(shares.argmax())
        figures = {"class": float(present[worst]), "share_of_class": float(shares[worst]), "p": float(p[worst])}
        warnings: tuple[str, ...] = ()
        if figures["share_of_class"] > self.share and figures["p"] <= self.alpha / max(1, int((whole > 0).sum())):
            warnings = (
                f"ONE_CLASS: the request names {shares[worst]:.0%} of the training rows of class {present[worst]} "
                f"(p {p[worst]:.1e}); check that class's accuracy before release",
            )
        return DangerReport("composition of the request", figures, {}, warnings)


@dataclass(frozen=True)
class UtilityAudit:
    """Did a class become unusable?

    UTILITY_COLLAPSE for each class whose accuracy on the same test rows falls by more than `margin` with its whole
    interval, at a level shared among the classes (Bonferroni), and for all classes together.

    Args:
        margin: Fall in accuracy.
        level: Of all the intervals together.
    """

    margin: float = 0.05
    level: float = 0.95

    def __call__(self, after: nn.Module, reference: nn.Module, test: Part) -> DangerReport:
        """Audit a model.

        Args:
            after: The unlearned model.
            reference: A retrained model, else the model before: retraining without a class loses it too.
            test: Rows that neither was trained on.
        """
        rows = Rows.of(test, "test")
        labels = rows.labels().numpy()
        mine, theirs = (Outputs.of_model(m, rows).correct for m in (after, reference))
        assert mine is not None
        assert theirs is not None
        present = np.unique(labels)
        level = 1.0 - (1.0 - self.level) / len(present)
        changes = {"all": accuracy_difference(mine, theirs, self.level)}
        changes |= {f"class {c}": accuracy_difference(mine[labels == c], theirs[labels == c], level) for c in present}
        warnings = tuple(
            f"UTILITY_COLLAPSE: accuracy on {name} changed by {change.value:+.1%} (at most {change.high:+.1%})"
            for name, change in changes.items()
            if change.high < -self.margin
        )
        figures = {"accuracy": float(mine.mean()), "reference_accuracy": float(theirs.mean())}
        return DangerReport("utility", figures, changes, warnings)
