"""Point values of what a model reveals, in float64; `intervals`, `delong` and `roc` give their intervals.

Every score is higher for members. Functions take torch tensors, NumPy arrays or lists; a tensor on a device
is copied to the host, so the device waits here. NaN raises: a metric of NaN scores is not a number either.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from amu_fast.audit import scores
from amu_fast.audit.scores import ModelOutputs
from amu_fast.errors import DataError

Array = NDArray[np.float64]

COLLAPSE_POINTS = 10.0


def as_scores(values: Any, name: str = "scores") -> Array:
    """The values as a finite, non-empty float64 vector (n,), or a DataError that says what is wrong."""
    return _as_array(values, name, 1)


def as_matrix(values: Any, name: str = "logits") -> Array:
    """The values as a finite, non-empty float64 matrix (n, d), or a DataError that says what is wrong."""
    return _as_array(values, name, 2)


def as_labels(labels: Any, rows: int, classes: int) -> NDArray[np.int64]:
    """Class labels (rows,) as int64, each checked to lie in [0, classes)."""
    array = _to_numpy(labels)
    if array.shape != (rows,):
        raise DataError(f"labels must have shape ({rows},) to match the logits, got {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"labels must be integers, got {array.dtype}; pass class indices")
    bad = array[(array < 0) | (array >= classes)]
    if bad.size:
        raise DataError(f"labels must lie in 0 ... {classes - 1}, got {bad[0]}; the model has {classes} outputs")
    return array.astype(np.int64)


def accuracy(logits: Any, labels: Any) -> float:
    """Share of rows whose largest logit is the label's."""
    return float(correct(logits, labels).mean())


def correct(logits: Any, labels: Any) -> NDArray[np.bool_]:
    """Per row, whether the largest logit is the label's, (n,)."""
    z, y = _logits_and_labels(logits, labels)
    return np.asarray(z.argmax(axis=1) == y)


def losses(logits: Any, labels: Any) -> Array:
    """Cross-entropy -log p_y per row, (n,); lower for members."""
    z, y = _logits_and_labels(logits, labels)
    return _logsumexp(z) - z[np.arange(len(y)), y]


def phi(logits: Any, labels: Any) -> Array:
    """Phi = log p_y - log(1 - p_y) = z_y - log sum_{i != y} exp z_i per row, (n,); higher for members.

    The second form needs no probability, so it is accurate where p_y rounds to 1 and needs no floor.

    Source: Carlini et al. 2022 (arXiv 2112.03570), equation (6).
    """
    z, y = _logits_and_labels(logits, labels)
    index = np.arange(len(y))
    others = z.copy()
    others[index, y] = -np.inf
    return z[index, y] - _logsumexp(others)


def modified_entropy(logits: Any, labels: Any) -> Array:
    """Minus Song and Mittal's modified entropy per row, (n,), in float64; the score map of the same name."""
    z, y = _logits_and_labels(logits, labels)
    return np.asarray(scores.modified_entropy(ModelOutputs(torch.from_numpy(z), torch.from_numpy(y)))[:, 0])


def placements(members: Any, nonmembers: Any) -> tuple[Array, Array]:
    """DeLong's components: per member the share of non-members below it, per non-member of members above it.

    Ties count a half (midranks). The mean of either is the AUC.

    Args:
        members: scores (m,).
        nonmembers: scores (n,).

    Returns:
        components (m,) and (n,).
    """
    s, t = as_scores(members, "member scores"), as_scores(nonmembers, "non-member scores")
    return _share_below(s, np.sort(t)), 1.0 - _share_below(t, np.sort(s))


def auc(members: Any, nonmembers: Any) -> float:
    """P(member > non-member) + P(equal)/2 over all pairs, the area under the ROC curve.

    >>> auc([2.0, 1.0], [1.0, 0.0])
    0.875
    """
    return float(placements(members, nonmembers)[0].mean())


def threshold_at_fpr(nonmembers: Any, fpr: float) -> float:
    """The (floor(fpr n) + 1)-th largest non-member score (S5); a row above it is called a member."""
    t = np.sort(as_scores(nonmembers, "non-member scores"))
    return float(t[len(t) - 1 - allowed_false_positives(len(t), fpr)])


def allowed_false_positives(nonmembers: int, fpr: float) -> int:
    """floor(fpr n), guarded against products such as .29 x 100 = 28.999999999999996."""
    if not 0.0 < fpr < 1.0:
        raise DataError(f"fpr must lie in (0, 1), got {fpr}")
    return min(math.floor(fpr * nonmembers + 1e-9), nonmembers - 1)


def tpr_at_fpr(members: Any, nonmembers: Any, fpr: float) -> float:
    """Share of members strictly above the threshold that lets through at most `fpr` of the non-members (S5).

    >>> tpr_at_fpr([5.0, 3.0, 1.0], [4.0, 3.0, 2.0, 0.0], fpr=0.25)
    0.3333333333333333
    """
    return float((as_scores(members, "member scores") > threshold_at_fpr(nonmembers, fpr)).mean())


def ks_statistic(first: Any, second: Any) -> float:
    """max_x |F(x) - G(x)| of two samples; about .055 at 500 a side when there is no difference (S10)."""
    s, t = np.sort(as_scores(first)), np.sort(as_scores(second))
    return float(np.abs(_steps(s, t)[1]).max())


def wasserstein_1(first: Any, second: Any) -> float:
    """Integral of |F(x) - G(x)| over x of two samples, in units of the scores; never 0 by chance (S10)."""
    s, t = np.sort(as_scores(first)), np.sort(as_scores(second))
    points, difference = _steps(s, t)
    return float((np.abs(difference[:-1]) * np.diff(points)).sum())


def utility(test_accuracy: float, attack_accuracy: float) -> float:
    """Test accuracy minus the attack's accuracy: the published one-number trade-off."""
    return test_accuracy - attack_accuracy


def collapsed(test_accuracy: float, retrain_test_accuracy: float) -> bool:
    """Whether test accuracy lies more than 10 points under retrain's (S2): counted, never dropped."""
    return 100.0 * (retrain_test_accuracy - test_accuracy) > COLLAPSE_POINTS


def _share_below(values: Array, ordered: Array) -> Array:
    left = np.searchsorted(ordered, values, side="left")
    right = np.searchsorted(ordered, values, side="right")
    return np.asarray((left + right) / (2.0 * len(ordered)))


def _steps(s: Array, t: Array) -> tuple[Array, Array]:
    """All jump points of the two distribution functions and F - G just after each."""
    points = np.sort(np.concatenate([s, t]))
    f = np.searchsorted(s, points, side="right") / len(s)
    g = np.searchsorted(t, points, side="right") / len(t)
    return points, np.asarray(f - g)


def _logsumexp(z: Array) -> Array:
    top = z.max(axis=1)
    return np.asarray(top + np.log(np.exp(z - top[:, None]).sum(axis=1)))


def _logits_and_labels(logits: Any, labels: Any) -> tuple[Array, NDArray[np.int64]]:
    z = as_matrix(logits)
    if z.shape[1] < 2:
        raise DataError(f"logits must have at least 2 classes, got shape {z.shape}; for one logit z pass [0, z]")
    return z, as_labels(labels, *z.shape)


def _as_array(values: Any, name: str, dimensions: int) -> Array:
    array = _to_numpy(values).astype(np.float64)
    if array.ndim != dimensions or array.size == 0:
        shape = "(n,)" if dimensions == 1 else "(n, d)"
        raise DataError(f"{name} must have shape {shape} with at least one row, got {array.shape}")
    bad = ~np.isfinite(array)
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise DataError(f"{name} hold {array[bad][0]} in row {row}; check the model's outputs (overflow, NaN weights)")
    return array


def _to_numpy(values: Any) -> NDArray[Any]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return np.asarray((values.double() if values.is_floating_point() else values).numpy())
    return np.asarray(values)
