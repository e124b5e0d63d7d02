"""The forget rows in two halves, one to train an attack and one to judge it; a person's rows stay together (S3, S4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from amu_fast.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def halves(rows: int, seed: int, clusters: NDArray[Any] | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers of a random half and of the rest, ascending; with clusters, of half of the persons and the rest.

    >>> first, second = halves(5, seed=0)
    >>> len(first), sorted([*first, *second]) == [0, 1, 2, 3, 4]
    (2, True)
    """
    units = np.arange(rows) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    count = int(units.max()) + 1 if rows else 0
    if count < 4:
        what = "rows" if clusters is None else "persons"
        raise DataError(f"an attack that is trained halves the forget {what} and needs at least 4, got {count}")
    first = (np.argsort(np.random.default_rng(seed).permutation(count)) < count // 2)[units]
    return np.flatnonzero(first), np.flatnonzero(~first)
