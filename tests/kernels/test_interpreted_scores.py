"""Score moments in Triton's interpreter: edges of their definition, and their gradient against autograd in float64."""

from __future__ import annotations

import math

import formulas
import kernel_cases
import pytest
import torch
from kernel_cases import MAKERS, SCORE_EDGES, assert_accurate, guard_bands, launcher

kernel_cases.require(interpreter=True)

INF, NAN = math.inf, math.nan


def moments(z, labels):
    return launcher("score_moments")(torch.tensor(z), torch.tensor(labels))


@pytest.mark.parametrize(("z", "label", "expected"), SCORE_EDGES)
def test_edges(z, label, expected):
    got = [float(output[0]) for output in moments([z], [label])]
    assert got == pytest.approx(list(expected), rel=1e-6, abs=1e-6, nan_ok=True)


def test_variance_does_not_cancel():
    """E[x^2] - E[x]^2 in float32 has no correct digit here."""
    z = torch.tensor([[1e4, 1e4 + 0.01, 1e4 - 0.01]])
    exact = formulas.score_moments(z.double(), torch.tensor([0]))[2]
    assert float(launcher("score_moments")(z, torch.tensor([0]))[2]) == pytest.approx(float(exact), rel=1e-5)


def gradient_problem(rows, vocabulary, *, scale=4.0):
    logits, labels = MAKERS["score_moments"](rows, vocabulary).tensors
    return scale / 4 * logits, labels, [torch.randn(rows) for _ in range(4)]


def backward(logits, labels, cotangents):
    _, mean, _, _, normaliser, runner_up = launcher("score_moments")(logits, labels)
    return launcher("score_moments_backward")(logits, labels, mean, normaliser, runner_up, *cotangents)


def assert_gradient(got, logits, labels, cotangents):
    """The tolerance rule with the sizes of p_j [...] for float32 values of the log-normaliser and the mean."""
    exact = formulas.score_moments_gradient(logits.double(), labels, [g.double() for g in cotangents])
    same = formulas.score_moments_gradient(logits.float(), labels, cotangents)
    log_p = torch.log_softmax(logits.double(), -1)
    p, by = log_p.exp(), [g.double().abs().unsqueeze(-1) for g in cotangents]
    mean = (p * log_p).sum(-1, keepdim=True)
    size = 1 + log_p.abs() + mean.abs() + torch.logsumexp(logits.double(), -1, keepdim=True).abs()
    deviation = (log_p - mean).abs()
    bend = deviation.square() + 2 * deviation + (p * deviation.square()).sum(-1, keepdim=True)
    terms = p * size * (by[0] + by[1] * (deviation + 1) + by[2] * (bend + 2 * deviation + 2))
    u = kernel_cases.UNIT[torch.float32]
    allowed = 2 * torch.maximum((same.double() - exact).abs(), 8 * u * terms + u * exact.abs())
    if got.dtype == torch.bfloat16:
        allowed = allowed + 2 * kernel_cases.UNIT[torch.bfloat16] * exact.abs()
    assert ((got.double() - exact).abs() <= allowed).all()


@pytest.mark.parametrize("rows", [0, 1, 34])
@pytest.mark.parametrize("vocabulary", [1, 2, 16, 17, 257, 1001])
def test_gradient(rows, vocabulary, monkeypatch):
    logits, labels, cotangents = gradient_problem(rows, vocabulary)
    with guard_bands(monkeypatch):
        got = backward(logits, labels, cotangents)
    assert_gradient(got, logits, labels, cotangents)
    assert not got[labels < 0].any()


def test_gradient_over_a_wide_vocabulary():
    problem = gradient_problem(3, 9000)
    assert_gradient(backward(*problem), *problem)


def test_gradient_of_bfloat16_logits():
    logits, labels, cotangents = gradient_problem(5, 100)
    logits = logits.bfloat16()
    got = backward(logits, labels, cotangents)
    assert got.dtype == torch.bfloat16
    assert_gradient(got, logits, labels, cotangents)


@pytest.mark.parametrize("part", range(4))
def test_gradient_takes_cotangents_of_any_stride(part):
    logits, labels, _ = gradient_problem(5, 17)
    cotangents = [torch.zeros(()).expand(5) for _ in range(4)]
    cotangents[part] = torch.randn(10)[::2]
    got = backward(logits.t().contiguous().t(), labels, cotangents)
    assert_gradient(got, logits, labels, cotangents)


def test_gradient_where_logits_are_minus_infinity():
    logits = torch.tensor([[1.0, -INF, 2.0, 0.5]])
    got = backward(logits, torch.tensor([0]), [torch.ones(1)] * 4)
    exact = formulas.score_moments_gradient(
        logits[:, [0, 2, 3]].double(), torch.tensor([0]), [torch.ones(1).double()] * 4
    )
    assert got[0, 1] == 0
    torch.testing.assert_close(got[:, [0, 2, 3]].double(), exact, rtol=1e-5, atol=1e-6)


def test_gradient_of_broken_rows_is_nan():
    """NaN logits, or a label past the vocabulary; the rows beside them are untouched."""
    logits, labels = torch.randn(3, 5), torch.tensor([0, 5, 1])
    logits[0, 3] = NAN
    got = backward(logits, labels, [torch.ones(3)] * 4)
    assert got[:2].isnan().all()
    assert got[2].isfinite().all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_logits(scale):
    problem = MAKERS["score_moments"](7, 33).map(lambda t: t * scale if t.is_floating_point() else t)
    assert_accurate("score_moments", launcher("score_moments")(*problem.arguments), problem)
