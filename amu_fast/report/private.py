"""Single rows before and after, under keyed names: the part of an audit that is never shared.

A row's score before and after tells who was in the training data, and is the very thing the shared report must not
give away (docs/statistics.md, S14 and the certificate's rule on ids).
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amu_fast.errors import DataError
from amu_fast.report import codec
from amu_fast.report.writing import write_atomic

if TYPE_CHECKING:
    from amu_fast.audit.metrics import Array

SCHEMA = "amu-fast-private/1"
WORST_SHARE = 0.01
MIN_KEY = 16
_ID_DIGITS = 16


@dataclass(frozen=True)
class PrivateRow:
    """One row.

    Attributes:
        id: keyed, see `keyed_id`.
        before: its score under the original.
        after: under the unlearned model.
        retrained: under the retrained model; None without one.
        worst: among the worst 1 %, by the score after.
    """

    id: str
    before: float
    after: float
    retrained: float | None
    worst: bool = False


@dataclass(frozen=True)
class PrivateTable:
    """Rows by name: forget rows that are still recognised first, and retain rows that were damaged.

    Attributes:
        title: of the report it belongs to.
        forget_score: name of the forget rows' score, higher for members.
        retain_score: name of the retain rows' score, higher for rows that the model is sure of.
        forget: all forget rows, highest score after unlearning first.
        regressions: retain rows that the original gets right and the unlearned model wrong, lowest score first.
    """

    title: str
    forget_score: str
    retain_score: str
    forget: tuple[PrivateRow, ...]
    regressions: tuple[PrivateRow, ...]

    @property
    def worst(self) -> tuple[PrivateRow, ...]:
        """The worst 1 % of the forget rows, at least one."""
        return tuple(row for row in self.forget if row.worst)

    def to_json(self) -> str:
        """Strict JSON."""
        return codec.dumps(self, SCHEMA)

    @staticmethod
    def from_json(text: str | bytes) -> PrivateTable:
        """The table that `to_json` wrote."""
        return codec.loads(text, PrivateTable, SCHEMA)

    def save(self, path: str | Path) -> Path:
        """Write the JSON atomically; keep the file where the training data are kept."""
        return write_atomic(path, self.to_json().encode())


def keyed_id(key: bytes, row: Any) -> str:
    """First 16 hexadecimal digits of HMAC-SHA256(key, row).

    A plain hash of a row number or of a telephone number is found by trying all of them; without the key this is not.

    >>> keyed_id(bytes(16), 7)
    '306e9426d794f2f6'
    """
    if len(key) < MIN_KEY:
        raise DataError(f"the key has {len(key)} bytes; use at least {MIN_KEY}, as from secrets.token_bytes(32)")
    return hmac.new(key, str(row).encode(), hashlib.sha256).hexdigest()[:_ID_DIGITS]


def forget_rows(
    ids: Sequence[str], before: Array, after: Array, retrained: Array | None = None
) -> tuple[PrivateRow, ...]:
    """The forget rows, highest score after unlearning first; the first 1 % (at least one) are the worst.

    Args:
        ids: keyed, one per row.
        before: scores (n,) of the original.
        after: scores (n,) of the unlearned model.
        retrained: scores (n,) of the retrained model.
    """
    ordered = sorted(range(len(ids)), key=lambda i: (-float(after[i]), ids[i]))
    worst = math.ceil(WORST_SHARE * len(ids))
    return tuple(_row(i, ids, before, after, retrained, place < worst) for place, i in enumerate(ordered))


def regressed_rows(
    ids: Sequence[str], before: Array, after: Array, retrained: Array | None, damaged: Array
) -> tuple[PrivateRow, ...]:
    """The retain rows that `damaged` (n,) marks, lowest score after unlearning first."""
    chosen = [i for i in range(len(ids)) if damaged[i]]
    chosen.sort(key=lambda i: (float(after[i]), ids[i]))
    return tuple(_row(i, ids, before, after, retrained, worst=False) for i in chosen)


def _row(i: int, ids: Sequence[str], before: Array, after: Array, retrained: Array | None, worst: bool) -> PrivateRow:
    reference = None if retrained is None else float(retrained[i])
    return PrivateRow(ids[i], float(before[i]), float(after[i]), reference, worst)
