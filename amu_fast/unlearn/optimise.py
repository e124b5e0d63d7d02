"""Stochastic gradient descent whose learning rate follows the share of the budget that is used up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from amu_fast.errors import DataError

Schedule = Literal["cosine", "constant", "steps", "linear", "restarts"]
_SCHEDULES = ("cosine", "constant", "steps", "linear", "restarts")
_CYCLES, _LOWEST = 5, 0.05  # warm restarts: 31 epochs as 1 + 2 + 4 + 8 + 16, from .1 to .005


@dataclass(frozen=True)
class Sgd:
    """Options of one SGD optimiser; its state belongs to a run (`Optimiser`).

    With q = used / budget at the start of a step, the learning rate is lr · w(q) · f(q):

        f(q) = (1 + cos πq)/2  "cosine";   1  "constant";   .1^([q ≥ 1/2] + [q ≥ 3/4])  "steps";
               min(1, (1 − q)/(1 − warmup))  "linear";   .05 + .95 (1 + cos πc)/2  "restarts"
        w(q) = min(1, (q + u)/warmup),  u = the step's own share of the budget; 1 without warm-up

    where c is the share done of the current one of five cycles, each twice as long as the one before.

    Args:
        lr: Largest learning rate, > 0.
        momentum: In [0, 1).
        weight_decay: Added to the gradient as weight_decay · θ.
        schedule: f above; "steps" is the ×.1 at 91 and 136 of 182 epochs of common retraining recipes.
        warmup: Share of the budget over which the rate rises from 0, in [0, 1).
        clip: Largest gradient norm over all parameters; None: no clipping.

    >>> [round(Sgd(lr=0.1).rate(q), 3) for q in (0.0, 0.5, 1.0)]
    [0.1, 0.05, 0.0]
    """

    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = "cosine"
    warmup: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.lr < math.inf:
            raise DataError(f"lr must be > 0 and finite, got {self.lr}; start at .01 to .1 for SGD")
        if not 0.0 <= self.momentum < 1.0:
            raise DataError(f"momentum must lie in [0, 1), got {self.momentum}; .9 is usual")
        if not 0.0 <= self.weight_decay < math.inf:
            raise DataError(f"weight_decay must be >= 0, got {self.weight_decay}; 5e-4 is usual, 0 turns it off")
        if self.schedule not in _SCHEDULES:
            raise DataError(f"schedule must be one of {_SCHEDULES}, got {self.schedule!r}")
        if not 0.0 <= self.warmup < 1.0:
            raise DataError(f"warmup is a share of the budget in [0, 1), got {self.warmup}")
        if self.clip is not None and not self.clip > 0.0:
            raise DataError(f"clip must be > 0, got {self.clip}; use None to turn clipping off")

    def rate(self, progress: float, share: float = 0.0) -> float:
        """Learning rate at `progress` = used / budget of a step that uses `share` of the budget."""
        warm = min(1.0, (progress + share) / self.warmup) if self.warmup > 0.0 else 1.0
        return self.lr * warm * self._decay(min(1.0, progress))

    def _decay(self, progress: float) -> float:
        if self.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        if self.schedule == "steps":
            return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
        if self.schedule == "linear":
            return min(1.0, (1.0 - progress) / (1.0 - self.warmup))
        if self.schedule == "restarts":
            done = progress * (2**_CYCLES - 1)  # in lengths of the first cycle; cycle k begins at 2^k - 1
            cycle = min(_CYCLES - 1, int(math.log2(done + 1.0)))
            share = min(1.0, (done + 1.0) / 2**cycle - 1.0)
            return _LOWEST + (1.0 - _LOWEST) * 0.5 * (1.0 + math.cos(math.pi * share))
        return 1.0


class Optimiser:
    """One run's SGD: parameters and momentum. Two of these on one model share parameters and nothing else."""

    def __init__(self, spec: Sgd, parameters: Iterable[Tensor]) -> None:
        self.spec = spec
        self.lr = spec.lr
        self._parameters = [p for p in parameters if p.requires_grad]
        fused = all(p.device.type in ("cpu", "cuda") for p in self._parameters)  # a third of the time on small models
        self._sgd = torch.optim.SGD(
            self._parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=fused
        )

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._sgd.zero_grad()

    def step(self, progress: float, share: float) -> None:
        """Clip the gradients in place and move the parameters, at the rate for this point of the budget."""
        if self.spec.clip is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.spec.clip)
        self.lr = self.spec.rate(progress, share)
        self._sgd.param_groups[0]["lr"] = self.lr
        self._sgd.step()

    @property
    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        """Momentum buffers by parameter; empty before the first step."""
        return self._sgd.state
