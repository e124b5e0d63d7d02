"""What a language model says of each token that counts, without vocabulary-sized temporaries.

For position t with logits z, label y and p = softmax(z):

    log_p = log p_y      mean = μ = Σ p log p      deviation = σ = sqrt(Σ p (log p − μ)² + 1e-6)
    margin = z_y − max_{j≠y} z_j

One autograd function visits the counted positions in chunks, forwards and backwards; it keeps the logits and a few
numbers per token, and makes the logits' gradient and nothing else of their size: a chunk has at most three rows of V
per token, in 2 MiB or 1/128 of the logits (64 MiB or 1/8 on an accelerator). Source: docs/game.md, section 9.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amu_fast.errors import DataError
from amu_fast.ops.gradients import under_torch_func

#: What `token_statistics` can be asked for.
STATISTICS = ("log_p", "mean", "deviation", "margin")

# Inside the root of σ: its gradient at a uniform p is finite (docs/game.md, section 9).
_WITHIN_ROOT = 1e-6
# Temporaries of one chunk: on the CPU what its caches hold, on an accelerator enough to be worth some 20 launches; or a
# part of the logits, where that is more.
_CPU_BYTES, _CPU_PART = 2 << 20, 128
_DEVICE_BYTES, _DEVICE_PART = 64 << 20, 8
# p below exp(-1000) is 0 in float64 too; bounded, log p keeps p log p and p (log p)² from being 0 · inf.
_LOWEST = -1000.0


class TokenStatistics(NamedTuple):
    """Statistics of N tokens, (N,) each, float32 (float64 for float64 logits); None for what was not asked for."""

    log_p: Tensor | None
    mean: Tensor | None
    deviation: Tensor | None
    margin: Tensor | None


def token_statistics(
    logits: Tensor, labels: Tensor, need: Sequence[str] = STATISTICS, *, at: tuple[Tensor, Tensor] | None = None
) -> TokenStatistics:
    """Statistics of the counted tokens, in row-major order.

    First derivatives are chunked like the values. With `create_graph=True` and under `torch.func` the dense formula
    serves, whose temporaries are as large as the logits. Waits for the device if `at` is None.

    Args:
        logits: (n, T, V), V >= 2; position t predicts the label of t + 1. Only rows of counted tokens are read.
        labels: (n, T) int64, not shifted, in [0, V); -100 where a token does not count.
        need: Names out of `STATISTICS`.
        at: Row and label position of each token, (N,) int64 each, where the caller knows which count.

    Raises:
        DataError: Unknown names, or shapes that do not fit.

    >>> found = token_statistics(torch.zeros(1, 3, 4), torch.tensor([[-100, 2, 1]]), need=("log_p", "margin"))
    >>> found.log_p.exp(), found.margin, found.mean
    (tensor([0.2500, 0.2500]), tensor([0., 0.]), None)
    """
    unknown = set(need) - set(STATISTICS)
    if unknown:
        raise DataError(f"need must name some of {STATISTICS}, got {sorted(unknown)}")
    if logits.dim() != 3 or labels.shape != logits.shape[:2] or logits.shape[-1] < 2:
        raise DataError(
            f"logits must be (n, T, V) with V >= 2 and labels (n, T), got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}; for classifiers use the scores of amu_fast.audit.scores"
        )
    if at is None:
        row, position = (labels[:, 1:] != -100).nonzero(as_tuple=True)
        at = (row, position + 1)
    row, position = at
    wanted = tuple(name in need for name in STATISTICS)
    place, target = row * labels.shape[1] + position - 1, labels[row, position]
    if under_torch_func():
        return TokenStatistics(*_dense(_rows(logits, place), target, wanted))
    return TokenStatistics(*_Statistics.apply(logits, place, target, wanted))


class _Statistics(torch.autograd.Function):
    """The statistics of targets at places (rows of the flattened logits), chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, place: Tensor, target: Tensor, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
        log_p, margin, *moments = torch.zeros((6, len(place)), dtype=kind, device=logits.device)
        shift, normaliser, centre, variance = moments
        rival = torch.zeros_like(place)
        for part in _chunks(logits, len(place)):
            z = _rows(logits, place[part])
            y = target[part].unsqueeze(-1)
            z_y = z.gather(-1, y)
            if wanted[3]:
                z.scatter_(-1, y, -torch.inf)
                others = z.max(-1)
                rival[part], margin[part] = others.indices, z_y.squeeze(-1) - others.values
                z.scatter_(-1, y, z_y)
            if wanted[0] and not (wanted[1] or wanted[2]):
                log_p[part] = z.log_softmax(-1).gather(-1, y).squeeze(-1)
            elif any(wanted[:3]):
                shift[part], powers, total = _normalise(z)
                normaliser[part] = total.log()
                # one after the other: shift + normaliser would round at the size of the logits
                log_p[part] = (z_y.squeeze(-1) - shift[part]) - normaliser[part]
            if wanted[1] or wanted[2]:
                centre[part], variance[part] = _moments(z, powers.div_(total.unsqueeze(-1)))
        ctx.wanted = wanted
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, place, target, rival, *moments)
        values = (log_p, centre - normaliser, (variance + _WITHIN_ROOT).sqrt(), margin)
        return tuple(value.clone() if want else None for value, want in zip(values, wanted, strict=True))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[0] or all(g is None for g in cotangents):
            return (None,) * 4
        logits, place, target = ctx.saved_tensors[:3]
        if torch.is_grad_enabled():
            gradient = torch.zeros_like(logits, memory_format=torch.contiguous_format).flatten(0, 1)
            z = _rows(logits, place)
            values = _dense(z, target, ctx.wanted)
            pairs = [(v, g) for v, g in zip(values, cotangents, strict=True) if v is not None and g is not None]
            (rows,) = torch.autograd.grad([v for v, _ in pairs], z, [g for _, g in pairs], create_graph=True)
            gradient = gradient.index_copy(0, place, rows.to(logits.dtype))
        else:
            gradient = _empty_but(logits, place)
            for part in _chunks(logits, len(place)):
                rows = _gradient_rows(ctx.saved_tensors, cotangents, part)
                gradient.index_copy_(0, place[part], rows.to(logits.dtype))
        return gradient.view(logits.shape), None, None, None


def _gradient_rows(saved: tuple[Tensor, ...], cotangents: tuple[Tensor | None, ...], part: slice) -> Tensor:
    """Σ over statistics of cotangent · d statistic / dz, for one chunk.

    d log_p/dz = e_y − p,   dμ/dz = p c,   dσ/dz = p (c² + 2c − v) / 2σ,   c = log p − μ,   v = σ² − 1e-6.
    """
    logits, place, target, rival, shift, normaliser, centre, variance = saved
    g_log_p, g_mean, g_deviation, g_margin = (None if g is None else g[part].unsqueeze(-1) for g in cotangents)
    z = _rows(logits, place[part])
    logs, mid, v = (number[part].unsqueeze(-1) for number in (normaliser, centre, variance))
    if g_mean is not None or g_deviation is not None:
        zero = torch.zeros_like(v)
        square = zero if g_deviation is None else g_deviation / (2 * (v + _WITHIN_ROOT).sqrt())
        linear = 2 * square + (zero if g_mean is None else g_mean)
        constant = square * v + (zero if g_log_p is None else g_log_p)
        c = z.sub_(shift[part].unsqueeze(-1)).clamp_(min=_LOWEST).sub_(mid)
        rows = (c * square).add_(linear).mul_(c).sub_(constant)
        rows.mul_(c.add_(mid - logs).exp_())
    elif g_log_p is not None:
        rows = z.softmax(-1).mul_(-g_log_p)
    else:
        rows = z.zero_()
    y = target[part].unsqueeze(-1)
    if g_log_p is not None:
        rows.scatter_add_(-1, y, g_log_p)
    if g_margin is not None:
        rows.scatter_add_(-1, y, g_margin).scatter_add_(-1, rival[part].unsqueeze(-1), -g_margin)
    return rows


def _empty_but(logits: Tensor, place: Tensor) -> Tensor:
    """A gradient of the flattened logits whose rows at `place` are still to be written; the others are 0.

    To write the whole of it first would be one more pass over the memory of a vocabulary of every token.
    """
    gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device).flatten(0, 1)
    rest = torch.ones(len(gradient), dtype=torch.bool, device=logits.device).index_fill_(0, place, False)
    if logits.device.type == "cpu":  # a device would have to wait for `nonzero`
        return gradient.index_fill_(0, rest.nonzero().squeeze(-1), 0.0)
    return gradient.masked_fill_(rest.unsqueeze(-1), 0.0)


def _normalise(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum m of each row, exp(z − m) and its sum; leaves z − m in z."""
    m = z.amax(-1, keepdim=True)
    powers = z.sub_(m).exp()
    return m.squeeze(-1), powers, powers.sum(-1)


def _moments(shifted: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance under p of z − m, which is overwritten; log p has the same variance.

    Centred on z − m and not on log p, whose common error, log Σ exp's, would be all that is left of c at ties.
    """
    products = p * shifted.clamp_(min=_LOWEST)
    centre = products.sum(-1)
    c = shifted.sub_(centre.unsqueeze(-1))
    return centre, torch.mul(c, c, out=products).mul_(p).sum(-1)


def _dense(z: Tensor, target: Tensor, wanted: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """The statistics of (N, V) logits in formulas that autograd differentiates as often as it likes."""
    y = target.unsqueeze(-1)
    log_p = z.log_softmax(-1)
    bounded = log_p.clamp(min=_LOWEST)
    p = bounded.exp()
    mean = (p * bounded).sum(-1)
    deviation = ((p * (bounded - mean.unsqueeze(-1)) ** 2).sum(-1) + _WITHIN_ROOT).sqrt()
    margin = z.gather(-1, y).squeeze(-1) - z.scatter(-1, y, -torch.inf).max(-1).values
    values = (log_p.gather(-1, y).squeeze(-1), mean, deviation, margin)
    return tuple(value if want else None for value, want in zip(values, wanted, strict=True))


def _rows(logits: Tensor, place: Tensor) -> Tensor:
    """Copies of rows of the flattened logits, in float32, or float64 if they are: sums over a vocabulary need it."""
    if logits.is_contiguous():
        z = logits.flatten(0, 1).index_select(0, place)
    else:  # flattening might copy them all
        z = logits[place // logits.shape[1], place % logits.shape[1]]
    return z if z.dtype == torch.float64 else z.float()


def _chunks(logits: Tensor, tokens: int) -> Iterator[slice]:
    """Slices of the tokens such that three rows per token, in float32 at least, fit the budget."""
    least, part = (_CPU_BYTES, _CPU_PART) if logits.device.type == "cpu" else (_DEVICE_BYTES, _DEVICE_PART)
    budget = max(least, logits.numel() * logits.element_size() // part)
    step = max(1, budget // (3 * max(logits.element_size(), 4) * logits.shape[-1]))
    return (slice(start, start + step) for start in range(0, tokens, step))
