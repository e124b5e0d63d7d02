"""Per-step record of a run, kept on the device and read in blocks, so that steps do not wait."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from amu_fast.errors import SolveError

_BLOCK = 32
_CHECKED = ("retain_loss", "forget_loss", "payoff", "moment_gap")


class History:
    """Columns of equal length, one entry a step; None where a step did not record a value."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._pending: list[tuple[int, dict[str, float], Mapping[str, Tensor]]] = []
        self._rows: list[dict[str, float]] = []

    def add(self, step: int, host: dict[str, float], values: Mapping[str, Tensor]) -> None:
        """Append a step: figures known on the host and scalars on the device. Waits for the device every 32nd time.

        Raises:
            SolveError: A loss or payoff is not finite; names the first such step.
        """
        self._pending.append((step, host, values))
        if len(self._pending) >= _BLOCK:
            self.flush()

    def flush(self) -> None:
        """Move pending steps to the host and check them. Waits for the device."""
        pending, self._pending = self._pending, []
        scalars = [value.detach().double().reshape(()) for _, _, values in pending for value in values.values()]
        figures = iter(torch.stack(scalars).tolist() if scalars else [])
        for step, host, values in pending:
            row = {"step": float(step), **host, **{name: next(figures) for name in values}}
            self._rows.append(row)
            self._check(step, row)

    def columns(self) -> Mapping[str, tuple[float | None, ...]]:
        """The record by column; flushes first."""
        self.flush()
        names = dict.fromkeys(name for row in self._rows for name in row)
        return MappingProxyType({name: tuple(row.get(name) for row in self._rows) for name in names})

    def _check(self, step: int, row: dict[str, float]) -> None:
        for name in _CHECKED:
            if not math.isfinite(row.get(name, 0.0)):
                raise SolveError(
                    f"{name} is {row[name]} at step {step} of {self._method} (learning rate {row['lr']:.3g}); lower "
                    "optimiser.lr or the method's weight, set optimiser.clip, or look for NaN in that part's inputs"
                )
