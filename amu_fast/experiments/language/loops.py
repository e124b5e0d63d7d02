"""Two training loops: one from scratch by epochs, one that unlearns until its gradient samples are used up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amu_fast.errors import DataError, SolveError
from amu_fast.experiments.language.data import Batches, Part, size
from amu_fast.unlearn.door import own_randomness
from amu_fast.unlearn.meter import GradientSamples
from amu_fast.unlearn.objectives import FineTune, Objective, UnlearningBatch


@dataclass(frozen=True)
class AdamW:
    """Options of one AdamW run: the rate rises linearly over `warmup` of the budget and falls as a cosine.

    Args:
        lr: Largest rate.
        batch_size: Retain rows a step.
        weight_decay: Decoupled.
        betas: Of the moments.
        warmup: Share of the budget, in [0, 1).
        clip: Largest gradient norm.
    """

    lr: float = 2e-3
    batch_size: int = 16
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = 0.1
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.lr < math.inf:
            raise DataError(f"lr must be > 0 and finite, got {self.lr}; 1e-3 is usual for small models")
        if self.batch_size < 1:
            raise DataError(f"batch_size must be >= 1, got {self.batch_size}")

    def rate(self, progress: float) -> float:
        """The rate at `progress` = used / budget."""
        warm = min(1.0, (progress + 1e-3) / self.warmup) if self.warmup > 0.0 else 1.0
        return self.lr * warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True)
class Unlearned:
    """What a run used and saw.

    Args:
        steps: Optimiser steps.
        gradient_samples: Used.
        budget: Allowed.
        last: The last value of everything that was recorded.
    """

    steps: int
    gradient_samples: float
    budget: float
    last: Mapping[str, float]


def descend(
    model: nn.Module,
    objective: Objective,
    parts: Mapping[str, Part],
    options: AdamW,
    budget: float,
    *,
    seed: int,
    audit_batch: int = 32,
) -> Unlearned:
    """Minimise an objective over the model's weights, in place, until `budget` gradient samples are used.

    Args:
        model: In any mode; it is in eval mode afterwards.
        objective: What to minimise.
        parts: Rows of "retain", "forget", "validation", as far as the objective needs them.
        options: Of the optimiser.
        budget: Gradient samples; a row without backward counts a third.
        seed: Fixes the order of rows and whatever the model draws.
        audit_batch: Forget rows and validation rows of a batch.

    Raises:
        SolveError: A loss is not finite.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=options.lr, betas=options.betas, weight_decay=options.weight_decay, fused=True
    )
    streams = {
        name: Batches(part, audit_batch, seed, name, distinct=True)
        if name != "retain"
        else Batches(part, options.batch_size, seed, name)
        for name, part in parts.items()
    }
    meter, step, last = GradientSamples(budget), 0, dict[str, float]()
    with own_randomness(parameters[0].device, seed):
        model.train()
        while not meter.exhausted:
            for group in optimiser.param_groups:
                group["lr"] = options.rate(meter.progress)
            batch = UnlearningBatch(**{name: streams[name].next() for name in objective.needs(step)}, step=step)
            optimiser.zero_grad()
            values: dict[str, Tensor] = {}
            for term in objective.terms(model, batch):
                if term.loss.requires_grad:
                    term.loss.backward()
                meter.used += term.gradient_samples
                values |= term.values
            norm = torch.nn.utils.clip_grad_norm_(parameters, options.clip)
            if not bool(norm.isfinite()):
                raise SolveError(f"step {step} of {objective.name} has a gradient of norm {float(norm)}; lower lr")
            optimiser.step()
            last |= {name: float(value) for name, value in values.items()}
            step += 1
    model.eval()
    return Unlearned(step, meter.used, budget, last)


def train(model: nn.Module, part: Part, epochs: float, options: AdamW, *, seed: int) -> Unlearned:
    """Train on one part, in place, for `epochs` passes."""
    return descend(model, FineTune(), {"retain": part}, options, epochs * size(part), seed=seed)
