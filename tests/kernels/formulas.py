"""The operators as plain formulas in the precision of their arguments, and the sizes of their terms.

Independent of the library's references. Every formula returns a tuple of outputs; `sizes` returns for each the sum of
its terms' magnitudes, to which rounding is proportional: the margin's own terms enter through the loss's slopes.
"""

from __future__ import annotations

import torch

LOGISTIC, SQUARED_HINGE, HUBERISED_HINGE = 0, 1, 2


def with_ones(x, intercept):
    return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1) if intercept else x


def times(x, v):
    return (x @ v.unsqueeze(-1)).squeeze(-1)


def loss_of(kind, m, width):
    """l, l', l''."""
    if kind == LOGISTIC:
        s = torch.sigmoid(-m)
        return torch.nn.functional.softplus(-m), -s, s * (1 - s)
    slack = (1 - m).clamp_min(0)
    if kind == SQUARED_HINGE:
        return slack**2, -2 * slack, 2.0 * (m < 1).to(m.dtype)
    inner = (slack > 0) & (slack < width)
    value = torch.where(slack < width, slack**2 / (2 * width), slack - width / 2)
    return value, -(slack / width).clamp_max(1), inner.to(m.dtype) / width


def glm_hvp(x, c, v, l2, intercept):
    x = with_ones(x, intercept)
    return (times(x.mT, c * times(x, v)) + l2 * v,)


def glm_hvp_sizes(x, c, v, l2, intercept):
    return glm_hvp(x.abs(), c.abs(), v.abs(), l2, intercept)


def glm_hvp_multi(x, c, v, l2, intercept):
    x = with_ones(x, intercept)
    return (x.mT @ (c * (x @ v)) + l2 * v,)


def glm_hvp_multi_sizes(x, c, v, l2, intercept):
    return glm_hvp_multi(x.abs(), c.abs(), v.abs(), l2, intercept)


def glm_gradient_curvature(x, y, t, w, loss, l2, width, intercept):
    x = with_ones(x, intercept)
    value, slope, curve = loss_of(loss, y * times(x, w), width)
    c = t * curve
    objective = (t * value).sum(-1) + l2 / 2 * w.square().sum(-1)
    return objective, times(x.mT, t * y * slope) + l2 * w, c, times(x.square().mT, c) + l2


def _slope_sizes(x, y, w, loss, width):
    """Sizes of l, l', l'' at margins whose own terms sum to |x||w|; sharp only away from the hinges' kinks."""
    value, slope, curve = loss_of(loss, y * times(x, w), width)
    margin = times(x.abs(), w.abs())
    steepest = {LOGISTIC: 0.25, SQUARED_HINGE: 2.0, HUBERISED_HINGE: 1 / width}[loss]
    bend = 0.1 if loss == LOGISTIC else 0.0
    return value + slope.abs() * margin + steepest * margin**2, slope.abs() + steepest * margin, curve + bend * margin


def glm_gradient_curvature_sizes(x, y, t, w, loss, l2, width, intercept):
    x = with_ones(x, intercept)
    value, slope, curve = _slope_sizes(x, y, w, loss, width)
    objective = (t * value).sum(-1) + l2 / 2 * w.square().sum(-1)
    return objective, times(x.abs().mT, t * slope) + l2 * w.abs(), t * curve, times(x.square().mT, t * curve) + l2


def glm_mixed_vjp(x, y, t, w, u, loss, width, intercept):
    d, x = x.shape[-1], with_ones(x, intercept)
    _, slope, curve = loss_of(loss, y * times(x, w), width)
    along_u, along_w = t * y * slope, t * curve * times(x, u)
    return (-(along_u.unsqueeze(-1) * u[..., None, :d] + along_w.unsqueeze(-1) * w[..., None, :d]),)


def glm_mixed_vjp_sizes(x, y, t, w, u, loss, width, intercept):
    d, x = x.shape[-1], with_ones(x, intercept)
    _, slope, curve = _slope_sizes(x, y, w, loss, width)
    along_w = t * curve * times(x.abs(), u.abs())
    first = (t * slope).unsqueeze(-1) * u[..., None, :d].abs()
    return (first + along_w.unsqueeze(-1) * w[..., None, :d].abs(),)


def multi_dot(a, b):
    return ((a.double() * b.double()).sum(-1),)


def multi_dot_sizes(a, b):
    return multi_dot(a.abs(), b.abs())


def score_moments(logits, labels):
    """By sorted, shifted sums; a label below 0 gives zeros."""
    z, label = logits, labels.clamp_min(0).unsqueeze(-1)
    log_p = torch.log_softmax(z, -1)
    p = log_p.exp()
    mean = torch.where(p > 0, p * log_p, 0).sum(-1, keepdim=True)
    variance = torch.where(p > 0, p * (log_p - mean).square(), 0).sum(-1)
    rest = z.scatter(-1, label, -torch.inf)
    own, rival = z.gather(-1, label).squeeze(-1), rest.amax(-1)
    found = rival > -torch.inf
    runner_up = torch.where(found, (rest == rival.unsqueeze(-1)).to(torch.uint8).argmax(-1), -1)
    outputs = (-log_p.gather(-1, label).squeeze(-1), mean.squeeze(-1), variance, own - rival, torch.logsumexp(z, -1))
    return (*(torch.where(labels < 0, 0, output) for output in outputs), torch.where(labels < 0, 0, runner_up))


def score_moments_sizes(logits, labels):
    logits = torch.where(logits == -torch.inf, logits.clamp_min(-1000), logits)
    top = logits.amax(-1, keepdim=True)
    log_p = torch.log_softmax(logits, -1)
    p, gap = log_p.exp(), (logits - top).abs()
    normaliser = torch.logsumexp(logits, -1).abs() + 1
    mean = (p * log_p).sum(-1, keepdim=True)
    deviation = (log_p - mean).abs()
    spread = (p * (1 + gap) * gap).sum(-1)
    variance = (p * ((1 + gap) * deviation.square() + 2 * deviation * (gap + spread.unsqueeze(-1)))).sum(-1)
    own = logits.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1).abs()
    shift = normaliser + top.squeeze(-1).abs() + spread
    return shift + own, shift + spread, variance, own + logits.abs().amax(-1), shift, torch.zeros_like(own)


def score_moments_gradient(logits, labels, cotangents):
    """By autograd through `score_moments`."""
    z = logits.detach().requires_grad_()
    outputs = score_moments(z, labels)[:4]
    total = sum((torch.where(labels < 0, 0, o) * g).sum() for o, g in zip(outputs, cotangents, strict=True))
    return torch.autograd.grad(total, z)[0]
