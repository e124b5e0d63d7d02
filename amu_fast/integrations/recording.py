"""What the steps of a run recorded: kept on the device, read when something is logged, averaged over ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor

from amu_fast.unlearn.history import History
from amu_fast.unlearn.objectives import Terms

Columns = dict[str, tuple[float | None, ...]]


@dataclass
class _Step:
    number: int
    lr: float
    samples: float
    values: Mapping[str, Tensor]


@dataclass
class Recorder:
    """Collects micro-batches into steps and steps into columns.

    Args:
        name: Of the method.
        accelerator: Whose ranks are averaged.
    """

    name: str
    accelerator: Accelerator
    _history: History = field(init=False)
    _before: Columns = field(default_factory=dict)
    _micro: list[Terms] = field(default_factory=list)
    _pending: list[_Step] = field(default_factory=list)
    _sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    _read: float = 0.0  # gradient samples of all ranks, of steps that were read

    def __post_init__(self) -> None:
        self._history = History(self.name)

    def add(self, terms: Sequence[Terms]) -> None:
        """One micro-batch of this rank."""
        self._micro += terms

    def close(self, step: int, lr: float) -> None:
        """The optimiser step that the latest micro-batches belong to; waits for nothing."""
        columns: dict[str, list[Tensor]] = {}
        for terms in self._micro:
            for name, value in terms.values.items():
                columns.setdefault(name, []).append(value.detach().float().reshape(()))
        samples = sum(terms.gradient_samples for terms in self._micro)
        values = {name: torch.stack(found).mean() for name, found in columns.items()}
        self._pending.append(_Step(step, lr, samples, values))
        self._micro = []

    def flush(self) -> None:
        """Read what is pending on all ranks; waits for the device.

        Raises:
            SolveError: A loss or payoff is not finite.
        """
        for step, samples, figures in self._shared():
            self._read += samples
            host = {"used": self._read, "lr": step.lr}
            self._history.add(step.number, host, {k: torch.tensor(v, dtype=torch.float64) for k, v in figures.items()})
            for name, value in figures.items():
                if not math.isnan(value):
                    total, count = self._sums.get(name, (0.0, 0))
                    self._sums[name] = total + value, count + 1
        self._history.flush()

    def means(self) -> dict[str, float]:
        """Means over the steps since the last call that recorded a value, NaN left out; and gradient_samples so far."""
        self.flush()
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        return {**means, "gradient_samples": self._read}

    @property
    def read(self) -> float:
        """Gradient samples of all ranks, of the steps that were read."""
        return self._read

    def charge(self, samples: float) -> None:
        """Add work of all ranks that belongs to no step."""
        self._read += samples

    def used(self) -> float:
        """Gradient samples of all ranks so far; waits for the device."""
        mine = sum(step.samples for step in self._pending)
        total = torch.tensor(mine, dtype=torch.float32, device=self.accelerator.device)
        return self._read + float(self.accelerator.reduce(total, "sum"))

    def columns(self) -> Columns:
        """The record by column, what came before a resume in front; what was not flushed is missing."""
        late = dict(self._history.columns())
        before, after = (len(c.get("step", ())) for c in (self._before, late))
        names = dict.fromkeys([*self._before, *late])
        return {n: (*self._before.get(n, (None,) * before), *late.get(n, (None,) * after)) for n in names}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; flush first, on all ranks."""
        return {"columns": self.columns(), "used": self._read, "sums": self._sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._before, self._read = dict(state["columns"]), float(state["used"])
        self._sums = dict(state["sums"])
        self._history, self._micro, self._pending = History(self.name), [], []

    def _shared(self) -> list[tuple[_Step, float, dict[str, float]]]:
        """Pending steps with their gradient samples and values, one reduction for all."""
        steps, self._pending = self._pending, []
        if not steps:
            return []
        device, world = self.accelerator.device, self.accelerator.num_processes
        flat = [torch.tensor(step.samples, dtype=torch.float32, device=device) for step in steps]
        flat += [value.to(device) for step in steps for value in step.values.values()]
        read = self.accelerator.reduce(torch.stack(flat), "mean").tolist()
        samples, figures = read[: len(steps)], iter(read[len(steps) :])
        return [
            (step, total * world, {name: next(figures) for name in step.values})
            for step, total in zip(steps, samples, strict=True)
        ]
