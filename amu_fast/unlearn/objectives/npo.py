"""Negative preference optimisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from amu_fast.audit.gather import global_mean
from amu_fast.errors import DataError
from amu_fast.unlearn.meter import cost
from amu_fast.unlearn.objectives.base import RetainLoss, Summed, Terms, retain_term
from amu_fast.unlearn.objectives.batch import Part, UnlearningBatch, outputs_of, rows_of
from amu_fast.unlearn.objectives.likelihood import log_likelihoods, summed_log_likelihoods


@dataclass(frozen=True, eq=False)
class Npo(Summed):
    """(2/β) · mean log(1 + (π_θ/π_ref)^β) over the forget rows + α · NLL of the retain rows; π sums over a sequence.

    π_ref is the model before unlearning. Its log-probabilities are the part's key "original"
    (`summed_log_likelihoods`, once before the run); without it `reference` is asked at every step.

    Source: Zhang et al. 2024 (arXiv 2404.05868).

    Args:
        beta: β > 0.
        retain_weight: α >= 0.
        reference: A frozen copy of the model before unlearning.
        group: Process group of the ranks; None: all of them.
    """

    beta: float = 0.1
    retain_weight: float = 1.0
    reference: nn.Module | None = None
    group: Any = None
    name: str = "npo"

    def __post_init__(self) -> None:
        if not 0.0 < self.beta < float("inf"):
            raise DataError(f"beta must be > 0 and finite, got {self.beta}; 0.1 is usual")
        if not 0.0 <= self.retain_weight < float("inf"):
            raise DataError(f"retain_weight must be >= 0 and finite, got {self.retain_weight}; 1 is usual")

    def needs(self, step: int) -> tuple[str, ...]:
        """Retain and forget rows."""
        return ("retain", "forget")

    def terms(self, model: nn.Module, batch: UnlearningBatch, retain_loss: RetainLoss | None = None) -> Iterator[Terms]:
        """The retain loss, then the preference against the forget rows."""
        yield retain_term(model, batch, retain_loss, self.retain_weight, self.group)
        part = batch.part("forget")
        original = self._original(part)
        sums, counts = log_likelihoods(outputs_of(model, part))
        preference = functional.softplus(self.beta * (sums - original.to(sums))) * (2.0 / self.beta)
        loss = global_mean(preference.sum(), torch.ones_like(preference).sum(), self.group)
        nll = -global_mean(sums.detach().sum(), counts.sum(), self.group)
        rows = rows_of(part)
        asked = 0.0 if "original" in part else cost(rows, backward=False)
        yield Terms(loss, {"npo_loss": loss.detach(), "forget_loss": nll}, cost(rows) + asked)

    def _original(self, part: Part) -> Tensor:
        if "original" in part:
            return part["original"]
        if self.reference is None:
            raise DataError(
                "NPO compares with the model before unlearning: put its summed log p into the forget part as "
                "'original' (summed_log_likelihoods), or give Npo(reference=...) a frozen copy of that model"
            )
        return summed_log_likelihoods(self.reference, part)
