"""Log-likelihoods of rows: of a class, or of the counted tokens of a sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from amu_fast.audit.gather import global_mean
from amu_fast.audit.language import sequence_sums
from amu_fast.audit.scores import ModelOutputs
from amu_fast.unlearn.objectives.batch import Part, audit_mode, outputs_of


def log_likelihoods(outputs: ModelOutputs) -> tuple[Tensor, Tensor]:
    """Summed log p of each row and how many terms each sum has: 1 for a class, the counted tokens of a sequence.

    Args:
        outputs: Logits (n, C) with labels (n,), or (n, T, V) with labels (n, T), not shifted, -100 where not counted.

    Returns:
        (n,) and (n,), float32 at least; the second without gradient.
    """
    if outputs.logits.dim() == 3:
        return sequence_sums(outputs)
    logits = outputs.logits if outputs.logits.dtype == torch.float64 else outputs.logits.float()
    sums = -functional.cross_entropy(logits, outputs.labels, reduction="none")
    return sums, torch.ones_like(sums)


def mean_nll(outputs: ModelOutputs, group: Any = None) -> Tensor:
    """Minus the mean log p over the rows (or counted tokens) of all ranks; its gradients are to be averaged."""
    sums, counts = log_likelihoods(outputs)
    return -global_mean(sums.sum(), counts.sum(), group)


@torch.no_grad()
def summed_log_likelihoods(model: nn.Module, part: Part) -> Tensor:
    """(n,) summed log p of each row, in eval mode and without graph: what the key "original" of a part holds."""
    with audit_mode(model):
        return log_likelihoods(outputs_of(model, part, gradient=False))[0]


@torch.no_grad()
def mean_log_likelihoods(model: nn.Module, part: Part) -> Tensor:
    """(n,) mean log p of each row, in eval mode and without graph: what the key "reference" of a part holds."""
    with audit_mode(model):
        sums, counts = log_likelihoods(outputs_of(model, part, gradient=False))
    return sums / counts
