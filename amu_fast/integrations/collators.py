"""Rows of several parts as one batch, each part padded by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from amu_fast.errors import DataError
from amu_fast.unlearn.objectives import AUXILIARY

_FILLERS = {"labels": -100, "segments": -1}
_LABEL_NAMES = ("label", "label_ids")


@dataclass(frozen=True)
class PadRows:
    """A collator: stacks tensors of equal shape and pads one-dimensional ones on the right.

    `labels` are padded with -100, `input_ids` with `pad_token_id`, anything else with 0; rows that were padded without
    an `attention_mask` get one.

    Args:
        pad_token_id: Filler of `input_ids`.

    >>> PadRows()([{"input_ids": [5, 6]}, {"input_ids": [7]}])["attention_mask"].tolist()
    [[1, 1], [1, 0]]
    """

    pad_token_id: int = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Collate rows of the same keys.

        Raises:
            DataError: Rows of different keys, values that are no numbers, or shapes that do not fit.
        """
        columns: dict[str, list[Tensor]] = {}
        for name in rows[0]:
            values = _column(rows, name)
            columns["labels" if name in _LABEL_NAMES else name] = [_tensor(name, value) for value in values]
        ids = columns.get("input_ids")
        if ids is not None and "attention_mask" not in columns and len({len(row) for row in ids}) > 1:
            columns["attention_mask"] = [torch.ones_like(row) for row in ids]
        fillers = {"input_ids": self.pad_token_id, **_FILLERS}
        return {name: _stacked(name, values, fillers.get(name, 0)) for name, values in columns.items()}


class PartCollator:
    """Collates (part, row) pairs into part -> batch; the keys of `AUXILIARY` never reach the inner collator.

    Of an auxiliary key a row holds one number, or (packed rows) one per sequence; `segments` holds one per position,
    numbered from 0 in each row.

    Args:
        collate: What collates the model's inputs of one part's rows.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], Mapping[str, Tensor]]) -> None:
        self._collate = collate

    def __call__(self, items: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, dict[str, Tensor]]:
        """One micro-batch."""
        parts: dict[str, list[Mapping[str, Any]]] = {}
        for name, row in items:
            parts.setdefault(name, []).append(row)
        return {name: self.part(rows) for name, rows in parts.items()}

    def part(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """One part's rows."""
        inputs = [{key: value for key, value in row.items() if key not in AUXILIARY} for row in rows]
        batch = dict(self._collate(inputs))
        for name in AUXILIARY:
            if name in rows[0]:
                values = [_tensor(name, value) for value in _column(rows, name)]
                batch[name] = _segments(values, batch) if name == "segments" else _flat(values)
        return batch


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    missing = sum(name not in row for row in rows)
    if missing:
        raise DataError(
            f"{missing} of {len(rows)} rows have no {name!r} and the first one has; rows need the same keys"
        )
    return [row[name] for row in rows]


def _tensor(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name} of a row is a {type(value).__name__}, which is no tensor: {error}; give numbers, or leave it out"
        ) from error


def _stacked(name: str, values: list[Tensor], filler: int) -> Tensor:
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1 and any(len(shape) != 1 for shape in shapes):
        raise DataError(f"{name} has rows of shapes {sorted(shapes)}; give equal shapes, or pass a data_collator")
    width = max((len(value) for value in values), default=0) if len(shapes) > 1 else 0
    return torch.stack([pad(value, (0, width - len(value)), value=filler) if width else value for value in values])


def _flat(values: list[Tensor]) -> Tensor:
    return torch.cat([value.reshape(-1) for value in values])


def _segments(values: list[Tensor], batch: Mapping[str, Tensor]) -> Tensor:
    """Sequence numbers of all rows, made distinct and padded to the batch's width on the right."""
    width, before, rows = batch["labels"].shape[1], 0, []
    for value in values:
        rows.append(pad(torch.where(value < 0, value, value + before), (0, width - len(value)), value=-1))
        before += int(value.max()) + 1
    return torch.stack(rows)
