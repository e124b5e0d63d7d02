"""What attacks look at: a model's outputs on the rows of each part, computed once and shared by all attacks."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from amu_fast.audit import metrics
from amu_fast.audit.predict import predict
from amu_fast.errors import DataError
from amu_fast.splits import PARTS, Splits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from amu_fast.audit.metrics import Array
    from amu_fast.rows import Part

PROBABILITY_FLOOR = 1e-45
"""Probabilities of 0 are raised to this before the logarithm, as in the published likelihood-ratio attack."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """A model's answers on n rows, in float64.

    Attributes:
        scores: (n, d) everything a trained attack sees; from logits: the logits and the loss.
        loss: (n,) cross-entropy; None for raw score matrices.
        phi: (n,) log p_y - log(1 - p_y), higher for members; None for raw score matrices.
        correct: (n,) whether the answer is right; None where there are no logits.
        labels: (n,) class labels; None where there are no logits.
        clusters: (n,) person or author of each row, if rows repeat one (S4); None: every row is its own.
    """

    scores: Array
    loss: Array | None = None
    phi: Array | None = None
    correct: NDArray[np.bool_] | None = None
    labels: NDArray[np.int64] | None = None
    clusters: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if self.clusters is not None and np.shape(self.clusters) != (len(self.scores),):
            raise DataError(f"clusters must name one person per row, ({len(self)},), got {np.shape(self.clusters)}")

    @staticmethod
    def from_logits(logits: Any, labels: Any) -> Outputs:
        """From logits (n, C) and class labels (n,)."""
        loss, matrix = metrics.losses(logits, labels), metrics.as_matrix(logits)
        known = metrics.as_labels(labels, *matrix.shape)
        scores = np.column_stack([matrix, loss])
        return Outputs(scores, loss, metrics.phi(logits, labels), metrics.correct(logits, labels), known)

    @staticmethod
    def from_probabilities(probabilities: Any, labels: Any) -> Outputs:
        """From class probabilities (n, C) and class labels (n,)."""
        p = metrics.as_matrix(probabilities, "probabilities")
        if p.min() < 0 or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
            raise DataError(f"probabilities must be >= 0 and sum to 1, got row {p[0]}; pass logits to from_logits")
        return Outputs.from_logits(np.log(np.maximum(p, PROBABILITY_FLOOR)), labels)

    @staticmethod
    def from_scores(scores: Any) -> Outputs:
        """From one score per row (n,), higher for members, or from a score matrix (n, d) without a direction."""
        if np.ndim(scores) == 2:
            return Outputs(metrics.as_matrix(scores, "scores"))
        s = metrics.as_scores(scores)
        return Outputs(s[:, None], -s, s)

    @staticmethod
    def of_model(model: nn.Module, rows: Part, batch_size: int = 256) -> Outputs:
        """From a model on rows; waits for the device."""
        return Outputs.from_logits(*predict(model, rows, batch_size))

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: NDArray[np.int64]) -> Outputs:
        """The rows at these positions (k,)."""
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: values[rows] for name, values in known.items() if values is not None})

    def require(self, field: str) -> Array:
        """`loss` or `phi`, or a DataError where raw score matrices have neither."""
        values = getattr(self, field)
        if values is None:
            raise DataError(
                f"this attack needs {field}, which a score matrix lacks; pass logits and labels, or one score"
            )
        return np.asarray(values)

    def logits(self) -> tuple[Array, NDArray[np.int64]]:
        """Logits (n, C) and class labels (n,), or a DataError where the outputs were made of scores."""
        if self.labels is None:
            raise DataError("this attack needs logits and labels, which scores lack; use Outputs.from_logits")
        return self.scores[:, :-1], self.labels


@dataclass(frozen=True, eq=False)
class SplitOutputs:
    """Outputs of one model on the parts of its splits; attacks take it in place of the model.

    Attributes:
        forget: the members.
        test: non-members that the game never saw; every attack is judged on them.
        validation: non-members for attacks that are trained.
        retain: rows that stay.
    """

    forget: Outputs
    test: Outputs
    validation: Outputs | None = None
    retain: Outputs | None = None

    @staticmethod
    def of(
        target: Any, splits: Splits | None = None, parts: tuple[str, ...] = ("forget", "test"), batch_size: int = 256
    ) -> SplitOutputs:
        """A model's outputs on `parts` of its splits; outputs and pairs (members, non-members) pass through.

        Args:
            target: a model; or `SplitOutputs`; or a pair of `Outputs` or score arrays, members first.
            splits: the model's splits; not needed for outputs and arrays.
            parts: which parts a model is run on.
            batch_size: rows per forward pass.
        """
        if isinstance(target, SplitOutputs):
            return target
        if isinstance(target, (tuple, list)) and len(target) == 2:
            members, nonmembers = (t if isinstance(t, Outputs) else Outputs.from_scores(t) for t in target)
            return SplitOutputs(members, nonmembers)
        if not isinstance(target, nn.Module):
            raise DataError(
                f"an attack's target must be a model, SplitOutputs or a pair (member scores, non-member scores), "
                f"got {type(target).__name__}"
            )
        if splits is None:
            raise DataError("an attack on a model needs its splits; pass splits=Splits(...)")
        unknown = set(parts) - set(PARTS)
        if unknown:
            raise DataError(f"parts must be among {PARTS}, got {sorted(unknown)}")
        return SplitOutputs(**{part: Outputs.of_model(target, splits.rows(part), batch_size) for part in parts})

    def require(self, part: str) -> Outputs:
        """The outputs of one part, or a DataError where they are missing."""
        outputs = getattr(self, part)
        if outputs is None:
            raise DataError(f"this attack needs the {part} rows; pass {part}=Outputs.from_logits(logits, labels)")
        return outputs

    def clusters(self) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Person of each forget and of each test row (S4); None where neither part names any."""
        members, nonmembers = self.forget.clusters, self.test.clusters
        if members is None and nonmembers is None:
            return None
        if members is None or nonmembers is None:
            missing = "forget" if members is None else "test"
            raise DataError(f"clusters are given for one side only; give the {missing} rows theirs too")
        return members, nonmembers
