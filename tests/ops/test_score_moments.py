"""score_moments: the reference against float64 formulas of its own, edges of the definition, gradients, dispatch."""

from __future__ import annotations

import formulas
import pytest
import torch
from kernel_cases import MAKERS, SCORE_EDGES, Problem, assert_accurate

from amu_fast.errors import BackendError, DataError
from amu_fast.ops.score_moments import SCORE_MOMENTS, SCORE_MOMENTS_BACKWARD, score_moments

CALLS = pytest.mark.parametrize("call", [score_moments, SCORE_MOMENTS.bare], ids=["public", "bare"])


def first_four(logits, labels):
    return score_moments(logits, labels)[:4]


@pytest.mark.parametrize("batch", [(0,), (), (3,), (2, 0, 3)])
@pytest.mark.parametrize(("rows", "vocabulary"), [(0, 5), (1, 1), (17, 2), (63, 17), (5, 1000)])
def test_matches_the_formulas(rows, vocabulary, batch):
    problem = MAKERS["score_moments"](rows, vocabulary, batch=batch)
    assert_accurate("score_moments", score_moments(*problem.arguments), problem)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precision_of_the_moments(dtype):
    problem = MAKERS["score_moments"](17, 63).map(lambda t: t.to(dtype) if t.is_floating_point() else t)
    outputs = score_moments(*problem.arguments)
    assert outputs[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_accurate("score_moments", outputs, problem)


@pytest.mark.parametrize(("z", "label", "expected"), SCORE_EDGES)
def test_edges(z, label, expected):
    got = [float(output[0]) for output in score_moments(torch.tensor([z]), torch.tensor([label]))]
    assert got == pytest.approx(list(expected), rel=1e-6, abs=1e-6, nan_ok=True)


def test_variance_does_not_cancel():
    """E[x^2] - E[x]^2 in float32 has no correct digit here."""
    z = torch.tensor([[1e4, 1e4 + 0.01, 1e4 - 0.01]])
    exact = formulas.score_moments(z.double(), torch.tensor([0]))[2]
    assert float(score_moments(z, torch.tensor([0]))[2]) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize("layout", ["transposed", "every_second", "expanded"])
def test_any_layout(layout):
    change = {
        "transposed": lambda t: t.mT.contiguous().mT if t.ndim > 2 else t.t().contiguous().t(),
        "every_second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
        "expanded": lambda t: t[:1].expand_as(t),
    }[layout]
    problem = MAKERS["score_moments"](7, 5, batch=(3,)).map(change)
    assert_accurate("score_moments", score_moments(*problem.arguments), problem)


@CALLS
@pytest.mark.parametrize("batch", [(), (3,), (0,)])
def test_gradcheck(call, batch):
    logits = torch.randn(*batch, 4, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(-1, 6, (*batch, 4))
    assert torch.autograd.gradcheck(lambda z: call(z, labels)[:4], logits)


def test_gradient_against_the_formulas():
    logits, labels = (t.double() if t.is_floating_point() else t for t in MAKERS["score_moments"](17, 63).tensors)
    logits.requires_grad_()
    cotangents = [torch.randn(17, dtype=torch.float64) for _ in range(4)]
    got = torch.autograd.grad(first_four(logits, labels), logits, cotangents)[0]
    exact = formulas.score_moments_gradient(logits, labels, cotangents)
    torch.testing.assert_close(got, exact, rtol=1e-11, atol=1e-12)
    assert not got[labels < 0].any()


@pytest.mark.parametrize("part", range(4))
def test_one_cotangent_of_any_stride(part):
    """The other outputs are unused, and what arrives is expanded, strided or concatenated."""
    logits, labels = torch.randn(6, 5, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 3, 4, -100])
    for g in (torch.ones(()).double().expand(6), torch.randn(12).double()[::2]):
        got = torch.autograd.grad(first_four(logits, labels)[part], logits, g)[0]
        given = [g if i == part else torch.zeros(6).double() for i in range(4)]
        torch.testing.assert_close(got, formulas.score_moments_gradient(logits, labels, given))


def test_gradient_of_broken_rows_is_nan():
    logits, labels = torch.randn(3, 5), torch.tensor([0, 5, 1])
    logits[0, 3] = torch.nan
    logits.requires_grad_()
    sum(o.sum() for o in first_four(logits, labels)).backward()
    assert logits.grad[:2].isnan().all()
    assert logits.grad[2].isfinite().all()


def test_second_differentiation_raises():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = score_moments(logits, torch.tensor([0, 1]))[0].sum()
    with pytest.raises(BackendError, match="differentiable once"):
        torch.autograd.grad(loss, logits, create_graph=True)[0].sum().backward()


@pytest.mark.parametrize("labels_mapped", [True, False])
def test_vmap(labels_mapped):
    logits, labels = torch.randn(3, 4, 6), torch.randint(6, (3, 4))
    labels = labels if labels_mapped else labels[0]
    got = torch.func.vmap(score_moments, in_dims=(0, 0 if labels_mapped else None))(logits, labels)
    expected = score_moments(logits, labels.expand(3, 4))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_opcheck():
    logits, labels = torch.randn(3, 5, dtype=torch.float64, requires_grad=True), torch.tensor([0, 4, -1])
    torch.library.opcheck(SCORE_MOMENTS.bare, (logits, labels))
    outputs = score_moments(logits.detach(), labels)
    arguments = (logits.detach(), labels, outputs[1], outputs[4], outputs[5], *torch.randn(4, 3).double())
    torch.library.opcheck(SCORE_MOMENTS_BACKWARD.bare, arguments)


def test_compiles_whole():
    logits, labels = torch.randn(3, 5, requires_grad=True), torch.tensor([0, 4, -1])
    total = torch.compile(lambda z: sum(o.sum() for o in first_four(z, labels)), fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(total(logits), logits)[0]
    expected = torch.autograd.grad(sum(o.sum() for o in first_four(logits, labels)), logits)[0]
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64), "at least one entry"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), r"got \(2, 3\) and \(3,\)"),
        (torch.zeros(2, 3, dtype=torch.float16), torch.zeros(2, dtype=torch.int64), "got torch.float16"),
        (torch.zeros(2, 3), torch.zeros(2), "must be int64"),
    ],
)
def test_what_does_not_fit_raises(logits, labels, message):
    with pytest.raises(DataError, match=message):
        score_moments(logits, labels)


def test_problems_are_what_they_say():
    """The tests above would pass on empty problems."""
    problem = MAKERS["score_moments"](17, 63)
    assert isinstance(problem, Problem)
    assert (problem.tensors[1] < 0).any()
    assert (problem.tensors[1] >= 0).any()
