"""Token statistics against their formulas written down densely, token by token, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from amu_fast.audit import token_statistics as module
from amu_fast.audit.token_statistics import STATISTICS, token_statistics
from amu_fast.errors import DataError


def batch(n, T, V, dtype=torch.float64, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(n, T, V, dtype=torch.float64, generator=generator)).to(dtype)
    labels = torch.randint(V, (n, T), generator=generator)
    labels[0, : T // 2] = -100  # a prompt
    labels[-1, T - 1 :] = -100  # padding
    return logits, labels


def dense(logits, labels):
    """(4, N): the formulas on the whole batch in the logits' own precision, in the order of STATISTICS."""
    z = logits[:, :-1][labels[:, 1:] != -100]
    y = labels[:, 1:][labels[:, 1:] != -100]
    log_p = torch.log_softmax(z, -1)
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    variance = (p * (log_p - mean.unsqueeze(-1)) ** 2).sum(-1)
    others = torch.stack([torch.cat([row[:k], row[k + 1 :]]).max() for row, k in zip(z, y.tolist(), strict=True)])
    at_label = torch.arange(len(y)), y
    return torch.stack([log_p[at_label], mean, (variance + 1e-6).sqrt(), z[at_label] - others])


def weighted(values, seed=1):
    """A scalar with another weight for every number."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(values.shape, dtype=torch.float64, generator=generator).to(values.dtype) * values).sum()


def of(logits, labels, need=STATISTICS):
    found = token_statistics(logits, labels, need)
    return torch.stack([value for value in found if value is not None])


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 7 rows of 11 numbers of 8 bytes."""
    monkeypatch.setattr(module, "_CPU_BYTES", 3 * 8 * 11 * 7)
    monkeypatch.setattr(module, "_CPU_PART", 1 << 40)


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 6, 11), (5, 9, 11), (2, 17, 63)])
def test_values_and_gradients_in_float64(shape, small_chunks):
    logits, labels = batch(*shape)
    labels[0, -1] = 1  # the first row has a token, too
    logits.requires_grad_()
    found, expected = of(logits, labels), dense(logits, labels)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    (ours,) = torch.autograd.grad(weighted(found), logits)
    (theirs,) = torch.autograd.grad(weighted(expected), logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("need", [(name,) for name in STATISTICS] + [("log_p", "deviation"), ("mean", "margin")])
def test_gradcheck_of_each_statistic(need, small_chunks):
    logits, labels = batch(2, 5, 11, scale=1.0)
    logits.requires_grad_()
    assert gradcheck(lambda z: of(z, labels, need), (logits,))
    found = token_statistics(logits, labels, need)
    assert [getattr(found, name) is not None for name in STATISTICS] == [name in need for name in STATISTICS]


def test_second_derivatives_are_right_rather_than_lost():
    logits, labels = batch(2, 4, 5, scale=1.0)
    logits.requires_grad_()
    assert gradgradcheck(lambda z: of(z, labels), (logits,), fast_mode=True)
    # a constant cotangent: once_differentiable would return a gradient without its graph
    (first,) = torch.autograd.grad(of(logits, labels, ("log_p",)).sum(), logits, create_graph=True)
    (ours,) = torch.autograd.grad(weighted(first), logits)
    (theirs,) = torch.autograd.grad(dense(logits, labels)[0].sum(), logits, create_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(weighted(theirs), logits)[0])


def test_under_torch_func():
    logits, labels = batch(2, 4, 5)
    tangent = torch.ones_like(logits).cumsum(-1)

    def value(z):
        return weighted(of(z, labels))

    gradient, product = torch.func.jvp(torch.func.grad(value), (logits,), (tangent,))
    logits.requires_grad_()
    (first,) = torch.autograd.grad(weighted(dense(logits, labels)), logits, create_graph=True)
    torch.testing.assert_close(gradient, first.detach())
    torch.testing.assert_close(product, torch.autograd.grad((first * tangent).sum(), logits)[0])


def terms(logits, labels):
    """The largest Σ|terms| of each statistic and of its gradient, from the formulas in float64."""
    z = logits.double()[:, :-1][labels[:, 1:] != -100]
    log_p = z.log_softmax(-1)
    p, (_, mean, deviation, _) = log_p.exp(), dense(logits.double(), labels).unsqueeze(-1)
    c = (log_p - mean).abs()
    largest = [log_p.abs(), p * log_p.abs() * 2, deviation, z.abs() * 2]
    p = p * (1 + log_p.abs())  # what exp makes of the rounding of log p
    largest += [1 + p, p * c, p * (c * c + 2 * c + deviation**2) / (2 * deviation), torch.ones(1)]
    return [part.max().item() for part in largest]


def check(logits, labels, but=()):
    """The tolerance rule of each statistic and its gradient: twice the dense formula's error, or rounding."""
    results = []
    for z, function in ((logits.double(), dense), (logits.clone(), dense), (logits.clone(), of)):
        values = function(z.requires_grad_(), labels)
        gradients = [torch.autograd.grad(weighted(row), z, retain_graph=True)[0] for row in values]
        results.append([part.detach().double() for part in (*values, *gradients)])
    u = torch.finfo(logits.dtype).eps
    rows = zip(STATISTICS * 2, terms(logits, labels), *results, strict=True)
    for name, size, true, reference, found in rows:
        allowed = 2 * max((reference - true).abs().max().item(), u * size)
        assert name in but or (found - true).abs().max().item() <= allowed, name


@pytest.mark.parametrize("vocabulary", [2, 63, 1000])
def test_ties(vocabulary):
    labels = torch.tensor([[0, 1, 1, 0]])
    logits = torch.full((1, 4, vocabulary), 0.7)
    check(logits, labels, but=("margin",))  # which of the tied rivals has its gradient is free
    margin = of(logits.requires_grad_(), labels, ("margin",))
    assert torch.equal(margin, torch.zeros(1, 3))
    assert torch.autograd.grad(margin.sum(), logits)[0][0, :3].sort(-1).values[:, [0, -1]].tolist() == [[-1.0, 1.0]] * 3


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_tiny_and_huge_logits(scale):
    logits, labels = batch(3, 6, 50, torch.float32, scale)
    logits[0, 4, :2] = scale * 10.0  # two equal maxima
    labels[0, 5] = 1
    check(logits, labels)
    if scale == 1e4:
        # log p = -log 2 to full precision, where logsumexp rounds at 1e5
        where = (labels[:, 1:] != -100).nonzero().tolist().index([0, 4])
        assert of(logits, labels, ("log_p",))[0, where].item() == pytest.approx(-math.log(2.0), rel=1e-6)


def test_impossible_tokens_are_as_if_they_did_not_exist():
    logits, labels = batch(2, 5, 9, torch.float32)
    labels.clamp_(max=6)
    logits[:, :, 7:] = -torch.inf
    check_found, check_small = logits.clone().requires_grad_(), logits[:, :, :7].clone().requires_grad_()
    found, small = of(check_found, labels), of(check_small, labels)
    torch.testing.assert_close(found, small)
    ours = torch.autograd.grad(weighted(found), check_found)[0]
    torch.testing.assert_close(ours[:, :, :7], torch.autograd.grad(weighted(small), check_small)[0])
    assert (ours[:, :, 7:] == 0).all()


def test_an_impossible_label_has_a_finite_gradient():
    logits = torch.tensor([[[0.0, -torch.inf, 1.0], [0.0, 0.0, 0.0]]], requires_grad=True)
    log_p = of(logits, torch.tensor([[0, 1]]), ("log_p",))
    assert log_p.item() == -torch.inf
    assert torch.isfinite(torch.autograd.grad(log_p.sum(), logits)[0]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_have_float32_statistics(dtype):
    logits, labels = batch(3, 7, 200, dtype)
    half, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    found, expected = of(half, labels), dense(exact, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    gradient = torch.autograd.grad(weighted(found), half)[0]
    assert gradient.dtype == dtype
    reference = torch.autograd.grad(weighted(expected), exact)[0]
    torch.testing.assert_close(gradient.double(), reference, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("tokens", [2, 3])
def test_a_real_vocabulary_at_the_borders_of_chunks(tokens, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, tokens + 1, 50_257, generator=generator)
    labels = torch.randint(50_257, (1, tokens + 1), generator=generator)
    monkeypatch.setattr(module, "_CPU_BYTES", 3 * 4 * 50_257 * 2)
    assert [len(range(tokens)[part]) for part in module._chunks(logits, tokens)][:1] == [min(tokens, 2)]
    check(logits, labels)


def test_rows_that_do_not_count_are_not_read_and_have_no_gradient():
    logits, labels = batch(3, 6, 7, torch.float32)
    read = torch.zeros(3, 6, dtype=torch.bool)
    read[:, :-1] = labels[:, 1:] != -100
    logits[~read] = torch.nan
    logits.requires_grad_()
    found = of(logits, labels)
    gradient = torch.autograd.grad(weighted(found), logits)[0]
    assert torch.isfinite(found).all()
    assert torch.isfinite(gradient).all()
    assert (gradient[~read] == 0).all()
    assert (gradient[read].abs().sum(-1) > 0).all()


def test_no_counted_token_keeps_the_graph():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    found = token_statistics(logits, torch.full((2, 3), -100))
    assert all(value.shape == (0,) for value in found)
    gradient = torch.autograd.grad(found.log_p.sum() + found.margin.sum(), logits)[0]
    assert torch.equal(gradient, torch.zeros(2, 3, 5))


def test_strided_logits_and_chosen_tokens():
    base, labels = batch(3, 6, 8)
    logits = base.transpose(0, 1).contiguous().transpose(0, 1)
    assert not logits.is_contiguous()
    torch.testing.assert_close(of(logits, labels), dense(base, labels))
    at = torch.tensor([2, 1]), torch.tensor([3, 5])
    chosen = token_statistics(logits, labels, ("log_p",), at=at).log_p
    torch.testing.assert_close(chosen, base.log_softmax(-1)[at[0], at[1] - 1, labels[at]])


def test_two_calls_are_bitwise_equal():
    logits, labels = batch(3, 6, 500, torch.float32)
    results = []
    for _ in range(2):
        z = logits.clone().requires_grad_()
        found = of(z, labels)
        results.append((found.detach(), torch.autograd.grad(weighted(found), z)[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_bad_input():
    logits, labels = batch(2, 4, 5)
    with pytest.raises(DataError, match=r"need must name some of .* got \['entropy'\]"):
        token_statistics(logits, labels, ("entropy",))
    with pytest.raises(DataError, match=r"logits must be \(n, T, V\).*got \(4, 5\) and \(4,\)"):
        token_statistics(logits[0], labels[0])
    with pytest.raises(DataError, match="V >= 2"):
        token_statistics(logits[..., :1], labels)
