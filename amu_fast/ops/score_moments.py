"""Moments of a language model's scores: loss, E[log p], variance of log p and top-1 margin of logits, in one call.

With p = softmax(z), Z = log sum exp z and log p_j = z_j - Z:

    loss = Z - z_label                  mean = E_p[log p]
    variance = E_p[(log p - mean)^2]    margin = z_label - max_{j != label} z_j

An entry of weight 0 adds nothing, as p log p does in the limit; a logit of -inf is such an entry. Gradients, with
D_j = log p_j - mean and the runner-up k, the lowest index that attains the maximum of the margin:

    d loss = p - [label]    d mean = p o D    d variance = p o (D^2 + 2 D - variance)    d margin = [label] - [k]
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amu_fast.errors import BackendError, DataError
from amu_fast.ops.gradients import Args, Grads
from amu_fast.ops.registry import define

Moments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def score_moments(logits: Tensor, labels: Tensor) -> Moments:
    """Return loss, mean, variance, margin, log-normaliser and runner-up of every row of logits.

    Differentiable once in `logits` through the first four, under `torch.func` and `torch.compile` too; forward mode
    and a second differentiation raise.

    Args:
        logits: (*b, V) with V >= 1; bfloat16, float32 or float64.
        labels: (*b) int64; a negative one (-100) gives a row of zeros without gradient, one >= V gives NaN.

    Returns:
        loss, mean_log_p, variance_log_p, margin, log_normaliser, each (*b) in float32 (float64 for float64 logits),
        and runner_up (*b) int64, -1 where no other logit is above -inf (the margin is then inf). A row of NaN, or
        without a logit above -inf, gives NaN.

    Raises:
        DataError: shapes or dtypes do not fit.

    Accuracy:
        The variance is centred and keeps its digits where it is small beside the mean's square. Rounding as in
        `torch.log_softmax` of the same precision.

    Source:
        Merging of moments in the compiled kernel: Chan, Golub and LeVeque, Stanford STAN-CS-79-773 (1979).

    >>> loss, mean, variance, margin, log_normaliser, runner_up = score_moments(torch.zeros(1, 4), torch.tensor([2]))
    >>> loss, mean, variance, margin, runner_up
    (tensor([1.3863]), tensor([-1.3863]), tensor([0.]), tensor([0.]), tensor([0]))
    """
    if logits.ndim < 1 or logits.shape[-1] == 0 or labels.shape != logits.shape[:-1]:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise DataError(f"logits need one row of at least one entry per label, got {shapes}")
    if logits.dtype not in (torch.bfloat16, torch.float32, torch.float64):
        raise DataError(f"logits must be bfloat16, float32 or float64, got {logits.dtype}; convert them first")
    if labels.dtype != torch.int64:
        raise DataError(f"labels must be int64, got {labels.dtype}; convert them first")
    return SCORE_MOMENTS(logits, labels)


def _wide(logits: Tensor) -> Tensor:
    """The logits in the precision of the moments."""
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def _reference(logits: Tensor, labels: Tensor) -> Moments:
    z, vocabulary = _wide(logits), logits.shape[-1]
    top = z.amax(-1, keepdim=True)
    # Of the distances to the maximum: those of +inf are NaN, and a maximum of -inf leaves no distribution.
    gap = z - torch.where(top == -torch.inf, 0, top)
    e = gap.exp()
    weight = e.sum(-1)
    p, gap = e / weight.unsqueeze(-1), torch.where(e == 0, 0, gap)
    mean_gap = (p * gap).sum(-1, keepdim=True)
    variance = (p * torch.where(e == 0, 0, gap - mean_gap).square()).sum(-1)
    normaliser = torch.where(weight == 0, torch.nan, top.squeeze(-1) + weight.log())
    mean = mean_gap.squeeze(-1) - weight.log()
    index = torch.arange(vocabulary, device=z.device)
    is_label = index == labels.unsqueeze(-1)
    own = torch.where(is_label, z, 0).sum(-1)
    rest = torch.where(is_label, -torch.inf, z)
    rival = rest.amax(-1)
    first = torch.where(rest == rival.unsqueeze(-1), index, vocabulary).amin(-1)
    runner_up = torch.where((rival > -torch.inf) & (first < vocabulary), first, -1)
    unknown = z.isnan().any(-1) | (labels >= vocabulary)
    loss = torch.where(unknown, torch.nan, normaliser - own)
    margin = torch.where(unknown, torch.nan, own - rival)
    outputs = (loss, mean, variance, margin, normaliser, runner_up)
    return tuple(torch.where(labels < 0, 0, t).contiguous() for t in outputs)  # type: ignore[return-value]


def _fake(logits: Tensor, labels: Tensor) -> Moments:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    made = (logits.new_empty(labels.shape, dtype=dtype) for _ in range(5))
    return (*made, torch.empty_like(labels, memory_format=torch.contiguous_format))  # type: ignore[return-value]


def _gradient(inputs: Args, saved: Args, cotangents: Grads, needs: tuple[bool, ...]) -> Grads:
    (logits, labels), (mean, normaliser, runner_up) = inputs, saved
    given = (torch.zeros_like(mean) if g is None else g.contiguous() for g in cotangents[:4])
    return SCORE_MOMENTS_BACKWARD.bare(logits, labels, mean, normaliser, runner_up, *given), None


def _backward_reference(
    logits: Tensor,
    labels: Tensor,
    mean_log_p: Tensor,
    log_normaliser: Tensor,
    runner_up: Tensor,
    grad_loss: Tensor,
    grad_mean: Tensor,
    grad_variance: Tensor,
    grad_margin: Tensor,
) -> Tensor:
    z, vocabulary = _wide(logits), logits.shape[-1]
    log_p = z - log_normaliser.unsqueeze(-1)
    p = log_p.exp()
    deviation = torch.where(p == 0, 0, log_p) - mean_log_p.unsqueeze(-1)
    variance = (p * deviation.square()).sum(-1)
    centre = torch.where(labels < vocabulary, grad_loss - grad_variance * variance, torch.nan)
    by_mean, by_variance = grad_mean.unsqueeze(-1), grad_variance.unsqueeze(-1)
    gradient = p * (centre.unsqueeze(-1) + deviation * (by_mean + by_variance * (deviation + 2)))
    index = torch.arange(vocabulary, device=z.device)
    gradient = gradient + torch.where(index == labels.unsqueeze(-1), (grad_margin - grad_loss).unsqueeze(-1), 0)
    gradient = gradient - torch.where(index == runner_up.unsqueeze(-1), grad_margin.unsqueeze(-1), 0)
    return torch.where(labels.unsqueeze(-1) < 0, 0, gradient).to(logits.dtype).contiguous()


def _backward_fake(logits: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _refuse(inputs: Args, saved: Args, cotangents: Grads, needs: tuple[bool, ...]) -> Grads:
    raise BackendError(
        "amu_fast::score_moments is differentiable once, and a second differentiation was asked for; detach its "
        "gradient, or use plain log_softmax with create_graph=True"
    )


def _vmap(
    info: Any, in_dims: tuple[int | None, ...], logits: Tensor, labels: Tensor
) -> tuple[Moments, tuple[int, int, int, int, int, int]]:
    """The mapped dimension is one more batch dimension, in front."""
    moved = (
        t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip((logits, labels), in_dims, strict=True)
    )
    return SCORE_MOMENTS.bare(*moved), (0, 0, 0, 0, 0, 0)


SCORE_MOMENTS_BACKWARD = define(
    "score_moments_backward", reference=_backward_reference, fake=_backward_fake, gradient=_refuse
)
SCORE_MOMENTS = define(
    "score_moments",
    reference=_reference,
    fake=_fake,
    gradient=_gradient,
    vmap=_vmap,
    saved_outputs=(1, 4, 5),
    non_differentiable=(4,),
)
