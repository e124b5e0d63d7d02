"""Score maps: from a model's outputs on n samples to the (n, d) statistics that the auditor sees.

Every map takes `ModelOutputs` and returns float32 (float64 for float64 logits), differentiable in the logits. Any
callable with that signature is a score map. Source: docs/game.md, section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from amu_fast.errors import DataError

# p is floored here before a logarithm, as in the published attacks.
_FLOOR = 1e-30


@dataclass(frozen=True)
class ModelOutputs:
    """What a model released on n samples.

    Args:
        logits: (n, C) for classifiers, (n, T, V) for sequences, where position t predicts the label of t + 1.
        labels: (n,) true classes, int64 in [0, C); (n, T) tokens, not shifted, -100 where they do not count.
        mask: (n, T), 0 at padding; None for classifiers.
        hidden: (n, T, h) states of one layer, for score maps that use them.
        reference: (n,) what a reference model gives the same samples, for calibrated score maps: mean log p.
        extra: Anything else that a score map needs: "zlib_lengths" (n,), "segments" (n, T) of packed sequences.
    """

    logits: Tensor
    labels: Tensor
    mask: Tensor | None = None
    hidden: Tensor | None = None
    reference: Tensor | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.labels.shape != self.logits.shape[:-1]:
            raise DataError(
                f"labels must be {tuple(self.logits.shape[:-1])} for logits {tuple(self.logits.shape)}, "
                f"got {tuple(self.labels.shape)}"
            )

    def log_probabilities(self) -> Tensor:
        """(n, C) log-softmax, in float32 at least."""
        logits = self.logits if self.logits.dtype == torch.float64 else self.logits.float()
        return functional.log_softmax(logits, -1)


ScoreMap = Callable[[ModelOutputs], Tensor]


def log_likelihood(outputs: ModelOutputs) -> Tensor:
    """(n, 1): log p_y, minus the cross-entropy loss; higher = member. The default score of the game.

    >>> log_likelihood(ModelOutputs(torch.zeros(1, 4), torch.tensor([2]))).exp()
    tensor([[0.2500]])
    """
    return _of_label(outputs.log_probabilities(), outputs)


def logits_and_loss(outputs: ModelOutputs) -> Tensor:
    """(n, C + 1): the logits and the cross-entropy loss, the score vector of the published method."""
    logits = outputs.logits if outputs.logits.dtype == torch.float64 else outputs.logits.float()
    return torch.cat([logits, -log_likelihood(outputs)], -1)


def confidence(outputs: ModelOutputs) -> Tensor:
    """(n, 1): p_y; higher = member."""
    return log_likelihood(outputs).exp()


def margin(outputs: ModelOutputs) -> Tensor:
    """(n, 1): p_y minus the largest other probability; higher = member; differentiable almost everywhere."""
    p = outputs.log_probabilities().exp()
    others = p.scatter(-1, outputs.labels.unsqueeze(-1), -1.0)
    return _of_label(p, outputs) - others.amax(-1, keepdim=True)


def modified_entropy(outputs: ModelOutputs) -> Tensor:
    """(n, 1): minus Song and Mittal's modified entropy (USENIX Security 2021); higher = member.

    -[ -(1 - p_y) log p_y - sum_{i != y} p_i log(1 - p_i) ], with probabilities floored at 1e-30.
    """
    log_p = outputs.log_probabilities()
    p = log_p.exp()
    log_rest = torch.log((-torch.expm1(log_p)).clamp_min(_FLOOR))
    at_label = functional.one_hot(outputs.labels, p.shape[-1]).bool()
    terms = torch.where(at_label, -torch.expm1(log_p) * log_p, p * log_rest)
    return terms.sum(-1, keepdim=True)


@dataclass(frozen=True)
class TopK:
    """(n, k): the k largest log-probabilities in descending order; needs no label.

    Args:
        k: Number of classes kept, at least 1 and at most C.
    """

    k: int = 3

    def __post_init__(self) -> None:
        if self.k < 1:
            raise DataError(f"k must be >= 1, got {self.k}")

    def __call__(self, outputs: ModelOutputs) -> Tensor:
        """Apply the map."""
        classes = outputs.logits.shape[-1]
        if self.k > classes:
            raise DataError(f"k must be at most the number of classes {classes}, got {self.k}")
        return outputs.log_probabilities().topk(self.k, -1).values


def _of_label(values: Tensor, outputs: ModelOutputs) -> Tensor:
    return values.gather(-1, outputs.labels.unsqueeze(-1))
