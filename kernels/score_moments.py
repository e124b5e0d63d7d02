"""Operator G: loss, E[log p], centred variance of log p and top-1 margin of logits, in one pass over the vocabulary.

With p = softmax(z) and Z the log-normaliser, log p_j = z_j - Z:

    loss = Z - z_label                  mean = E_p[log p]
    variance = E_p[(log p - mean)^2]    margin = z_label - max_{j != label} z_j

A tile's weight, mean and squared deviations are taken about its own maximum and mean, in two passes over registers;
tiles are merged in double as Chan, Golub and LeVeque (1979) merge variances, so nothing cancels. An entry of weight 0,
a logit of -inf included, adds nothing. A negative label gives zeros.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from amu_fast.kernels.configurations import configuration, tile_width
from amu_fast.kernels.layout import flatten


@triton.jit
def _tile_moments(z):
    """Maximum (0 if there is none), weight, mean and squared deviations of a tile's rows under exp(z - maximum)."""
    top = tl.max(z, 1)
    top = tl.where(top == float("-inf"), 0.0, top)
    e = tl.exp(z - top[:, None])
    # Also where e is NaN: 0 NaN is NaN.
    gap = tl.where(e > 0.0, z - top[:, None], 0.0)
    weight = tl.sum(e, 1)
    mean = tl.sum(e * gap, 1) / tl.where(weight == 0.0, 1.0, weight)
    deviation = tl.where(e > 0.0, gap - mean[:, None], 0.0)
    return top, weight, mean, tl.sum(e * deviation * deviation, 1)


@triton.jit
def _moments(
    logits,
    labels,
    loss,
    mean_log_p,
    variance_log_p,
    margin,
    log_normaliser,
    runner_up,
    rows,
    vocabulary,
    row_stride,
    tiles,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STAGES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    label = tl.load(labels + row, mask=inside, other=-1)
    top = tl.zeros([ROWS], tl.float64)
    weight = tl.zeros([ROWS], tl.float64)
    mean = tl.zeros([ROWS], tl.float64)
    squares = tl.zeros([ROWS], tl.float64)
    own = tl.zeros([ROWS], tl.float32)
    broken = tl.zeros([ROWS], tl.int32)
    rival = tl.full([ROWS], float("-inf"), tl.float32)
    rival_at = tl.full([ROWS], -1, tl.int32)
    for i in tl.range(0, tiles, num_stages=STAGES):
        cols = i * WIDTH + tl.arange(0, WIDTH)
        mask = inside[:, None] & (cols < vocabulary)[None, :]
        z = tl.load(logits + row[:, None] * row_stride + cols[None, :], mask=mask, other=float("-inf"))
        z = z.to(tl.float32)
        tile_top, tile_weight, tile_mean, tile_squares = _tile_moments(z)
        tile_top = tile_top.to(tl.float64)
        new_top = tl.where((weight == 0.0) | (tile_top > top), tile_top, top)
        new_top = tl.where(tile_weight == 0.0, top, new_top)
        old_scale = tl.exp(tl.where(weight == 0.0, 0.0, top - new_top))
        tile_scale = tl.exp(tl.where(tile_weight == 0.0, 0.0, tile_top - new_top))
        a = weight * old_scale
        b = tile_weight * tile_scale
        delta = tile_top + tile_mean - mean
        share = b / tl.where(a + b == 0.0, 1.0, a + b)
        mean += tl.where(tile_weight == 0.0, 0.0, delta * share)
        squares = squares * old_scale + tile_squares * tile_scale + tl.where(a == 0.0, 0.0, delta * delta * a * share)
        weight = a + b
        top = new_top
        is_label = cols[None, :] == label[:, None]
        own += tl.sum(tl.where(is_label, z, 0.0), 1)
        broken += tl.sum((z != z).to(tl.int32), 1)
        others = tl.where(is_label, float("-inf"), z)
        best = tl.max(others, 1)
        at = tl.min(tl.where(others == best[:, None], cols[None, :], vocabulary), 1)
        rival_at = tl.where(best > rival, at, rival_at)
        rival = tl.where(best > rival, best, rival)
    # No logit above -inf: there is no distribution.
    normaliser = tl.where(weight == 0.0, float("nan"), top + tl.log(weight))
    active = label >= 0
    nothing = tl.zeros([ROWS], tl.float32)
    unknown = (broken > 0) | (label >= vocabulary)
    value = tl.where(unknown, float("nan"), normaliser - own).to(tl.float32)
    gap = tl.where(unknown, float("nan"), own - rival)
    tl.store(loss + row, tl.where(active, value, nothing), mask=inside)
    tl.store(mean_log_p + row, tl.where(active, (mean - normaliser).to(tl.float32), nothing), mask=inside)
    tl.store(variance_log_p + row, tl.where(active, (squares / weight).to(tl.float32), nothing), mask=inside)
    tl.store(margin + row, tl.where(active, gap, nothing), mask=inside)
    tl.store(log_normaliser + row, tl.where(active, normaliser.to(tl.float32), nothing), mask=inside)
    tl.store(runner_up + row, tl.where(active, rival_at, 0).to(tl.int64), mask=inside)


@triton.jit
def _log_p(logits, row, inside, cols, vocabulary, row_stride, normaliser):
    """A tile of log p and of p; both 0 where p is 0."""
    mask = inside[:, None] & (cols < vocabulary)[None, :]
    z = tl.load(logits + row[:, None] * row_stride + cols[None, :], mask=mask, other=float("-inf")).to(tl.float32)
    log_p = z - normaliser[:, None]
    p = tl.exp(log_p)
    return tl.where(p == 0.0, 0.0, log_p), p


@triton.jit
def _gradient(
    logits,
    labels,
    mean_log_p,
    log_normaliser,
    runner_up,
    grad_loss,
    grad_mean,
    grad_variance,
    grad_margin,
    out,
    rows,
    vocabulary,
    row_stride,
    tiles,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STAGES: tl.constexpr,
):
    """dz_j = p_j [g_loss + g_mean D_j + g_variance (D_j^2 + 2 D_j - variance)] + labels' parts, D = log p - mean."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    label = tl.load(labels + row, mask=inside, other=-1)
    active = label >= 0
    rival = tl.load(runner_up + row, mask=inside, other=-1)
    mean = tl.load(mean_log_p + row, mask=inside, other=0.0)
    normaliser = tl.load(log_normaliser + row, mask=inside, other=0.0)
    by_loss = tl.load(grad_loss + row, mask=inside, other=0.0)
    by_mean = tl.load(grad_mean + row, mask=inside, other=0.0)
    by_variance = tl.load(grad_variance + row, mask=inside, other=0.0)
    by_margin = tl.load(grad_margin + row, mask=inside, other=0.0)
    variance = tl.zeros([ROWS], tl.float64)
    for i in tl.range(0, tiles, num_stages=STAGES):
        cols = i * WIDTH + tl.arange(0, WIDTH)
        log_p, p = _log_p(logits, row, inside, cols, vocabulary, row_stride, normaliser)
        deviation = log_p - mean[:, None]
        variance += tl.sum(p * deviation * deviation, 1)
    centre = by_loss - by_variance * variance.to(tl.float32)
    centre = tl.where(label < vocabulary, centre, float("nan"))
    at_label = by_margin - by_loss
    for i in tl.range(0, tiles, num_stages=STAGES):
        cols = i * WIDTH + tl.arange(0, WIDTH)
        log_p, p = _log_p(logits, row, inside, cols, vocabulary, row_stride, normaliser)
        deviation = log_p - mean[:, None]
        slope = centre[:, None] + deviation * (by_mean[:, None] + by_variance[:, None] * (deviation + 2.0))
        gradient = p * slope
        gradient += tl.where(cols[None, :] == label[:, None], at_label[:, None], 0.0)
        gradient -= tl.where(cols[None, :] == rival[:, None], by_margin[:, None], 0.0)
        gradient = tl.where(active[:, None], gradient, 0.0)
        mask = inside[:, None] & (cols < vocabulary)[None, :]
        tl.store(out + row[:, None] * vocabulary + cols[None, :], gradient.to(out.dtype.element_ty), mask=mask)


def score_moments(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Five (*b) in float32 and the runner-up (*b) in int64 of logits (*b, V) in float32 or bfloat16."""
    batch, vocabulary = logits.shape[:-1], logits.shape[-1]
    moments = [torch.empty(batch, dtype=torch.float32, device=logits.device) for _ in range(5)]
    runner_up = torch.empty(batch, dtype=torch.int64, device=logits.device)
    if batch.numel():
        rows = flatten(logits, batch, 1)
        _launch(_moments, rows, (rows, labels.contiguous(), *moments, runner_up), vocabulary)
    return (*moments, runner_up)


def score_moments_backward(
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
    """Gradient (*b, V) in the logits' dtype."""
    out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    if out.numel():
        rows = flatten(logits, logits.shape[:-1], 1)
        saved = (labels, mean_log_p, log_normaliser, runner_up, grad_loss, grad_mean, grad_variance, grad_margin)
        _launch(_gradient, rows, (rows, *(t.contiguous() for t in saved), out), logits.shape[-1])
    return out


def _launch(kernel: triton.JITFunction, rows: Tensor, tensors: tuple[Tensor, ...], vocabulary: int) -> None:
    width = tile_width(vocabulary)
    row = configuration("score_moments", rows, width)
    kernel[(triton.cdiv(rows.shape[0], row.rows),)](
        *tensors,
        rows.shape[0],
        vocabulary,
        rows.stride(0),
        triton.cdiv(vocabulary, width),
        ROWS=row.rows,
        WIDTH=width,
        STAGES=row.stages,
        num_warps=row.warps,
        enable_fp_fusion=True,
    )
