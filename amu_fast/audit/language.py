"""Scores of sequences, from a language model's logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from amu_fast.audit.scores import ModelOutputs


def sequence_sums(outputs: ModelOutputs) -> tuple[Tensor, Tensor]:
    """Summed log p and number of counted tokens of each sequence, (S,) each."""
    logits, targets = outputs.logits[:, :-1], outputs.labels[:, 1:]
    wide = logits if logits.dtype == torch.float64 else logits.float()
    nll = functional.cross_entropy(wide.transpose(1, 2), targets, reduction="none", ignore_index=-100)
    return -nll.sum(-1), (targets != -100).sum(-1).to(nll.dtype)


def sequence_log_likelihood(outputs: ModelOutputs) -> Tensor:
    """(S, 1): mean log p over the counted tokens; higher = member."""
    sums, counts = sequence_sums(outputs)
    return (sums / counts).unsqueeze(-1)
