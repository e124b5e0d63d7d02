"""What every follower takes: score rows and labels of one problem or of a batch of them."""

from __future__ import annotations

from torch import Tensor

from amu_fast.errors import DataError


def checked_rows(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (*b, n, d) and labels (*b, n) in float64, without a graph. Waits for the device.

    Raises:
        DataError: Shapes do not match, there is no row, or a label is not +1 or -1.
    """
    if not scores.is_floating_point():
        raise DataError(f"scores must be floating point, got {scores.dtype}; use scores.double()")
    if scores.dim() < 2 or labels.shape != scores.shape[:-1]:
        raise DataError(
            f"scores must be (*b, n, d) and labels (*b, n), got {tuple(scores.shape)} and {tuple(labels.shape)}"
        )
    if scores.shape[-2] == 0:
        raise DataError(f"scores must have at least one row, got shape {tuple(scores.shape)}")
    y = labels.double()
    if bool((y.abs() != 1).any()):
        raise DataError(f"labels must be +1 (member) or -1, got values {labels.unique().tolist()[:5]}")
    return scores.detach().double(), y
