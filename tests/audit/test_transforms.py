"""`auditor_step` inside torch: `torch.func`, `torch.compile`, autocast, views, dtypes, and what must raise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import versus_oracle as vs
import zoo

from amu_fast.audit import auditor_step

CASE = zoo.random_case(np.random.default_rng(70), cells=[7, 9], d=4, folds=3, ignored=2, payoff="logistic")
BOTH = pytest.mark.parametrize("case", [CASE, replace(CASE, standardize=True)], ids=["raw", "standardized"])


def value(case):
    return lambda scores: vs.step(case, scores).value


def per_problem(case):
    return lambda scores: vs.step(case, scores).per_problem


def plain_gradient(case, cotangent=None):
    scores = vs.leaf(case)
    payoffs = vs.step(case, scores).per_problem
    payoffs.backward(torch.ones_like(payoffs) if cotangent is None else cotangent)
    return scores.grad


def close(a, b, rtol=1e-12):
    return bool(torch.linalg.norm(a - b) <= rtol * torch.linalg.norm(b))


@BOTH
def test_func_grad_and_value(case):
    gradient, result = torch.func.grad_and_value(value(case))(torch.tensor(case.scores))
    assert close(gradient, plain_gradient(case))
    assert close(result, vs.step(case, vs.leaf(case)).value.detach())


@BOTH
def test_func_vjp(case):
    cotangent = torch.tensor(np.random.default_rng(71).standard_normal((3, 2)))
    output, pull = torch.func.vjp(per_problem(case), torch.tensor(case.scores))
    assert output.shape == (3, 2)
    assert close(pull(cotangent)[0], plain_gradient(case, cotangent))


@BOTH
def test_func_jacrev(case):
    jacobian = torch.func.jacrev(per_problem(case))(torch.tensor(case.scores))
    truth = case.truth()
    assert jacobian.shape == (3, 2, *case.scores.shape)
    for k, g in np.ndindex(3, 2):
        exact = np.where((case.groups == g)[:, None], truth.gradients[k], 0)
        assert vs.distance(jacobian[k, g], exact) <= 1e-9 * vs.size(exact)


@BOTH
def test_func_vmap_over_batches_of_scores(case):
    rng = np.random.default_rng(72)
    batch = torch.tensor(case.scores + 0.1 * rng.standard_normal((3, *case.scores.shape)))
    payoffs = torch.func.vmap(per_problem(case))(batch)
    gradients = torch.func.vmap(torch.func.grad(value(case)))(batch)
    for scores, payoff, gradient in zip(batch, payoffs, gradients, strict=True):
        alone = replace(case, scores=scores.numpy())
        assert close(payoff, vs.step(alone, scores).per_problem)
        assert close(gradient, plain_gradient(alone))


@BOTH
def test_arbitrary_cotangents_on_per_problem(case):
    cotangent = np.random.default_rng(73).standard_normal((3, 2))
    cotangent[1, 0] = 0
    truth = case.truth()
    exact = sum(
        cotangent[k, g] * np.where((case.groups == g)[:, None], truth.gradients[k], 0) for k, g in np.ndindex(3, 2)
    )
    assert vs.distance(plain_gradient(case, torch.tensor(cotangent)), exact) <= 1e-9 * vs.size(exact)


def test_expanded_cotangents_and_slices_of_per_problem():
    full = plain_gradient(CASE)
    scores = vs.leaf(CASE)
    vs.step(CASE, scores).per_problem.mean().backward()
    assert close(scores.grad * 6, full)
    scores = vs.leaf(CASE)
    payoffs = vs.step(CASE, scores).per_problem
    (payoffs[1] ** 2).sum().backward()
    weights = torch.zeros(3, 2, dtype=torch.float64)
    weights[1] = 2 * payoffs.detach()[1]
    assert close(scores.grad, plain_gradient(CASE, weights))


VIEWS = {
    "cat": lambda s: torch.cat([s[:9], s[9:]]),
    "expanded column": lambda s: s + s.mean(1, keepdim=True).expand(-1, 4),
    "transposed": lambda s: s.t().contiguous().t(),
    "slice of a wider tensor": lambda s: torch.cat([s, s], dim=1)[:, 4:],
    "every second row of a taller one": lambda s: s.repeat_interleave(2, dim=0)[::2],
    "gathered": lambda s: s.flip(0)[torch.arange(len(s) - 1, -1, -1)],
    "sum of parts": lambda s: torch.stack([0.25 * s, 0.75 * s]).sum(0),
    "scaled": lambda s: 3 * s,
}


@pytest.mark.parametrize("view", VIEWS)
def test_gradients_arrive_through_views(view):
    """The chain rule by hand: the plain gradient at the viewed scores, pulled back through the view."""
    scores = vs.leaf(CASE)
    viewed = VIEWS[view](scores)
    vs.step(CASE, viewed).value.backward()
    moved = replace(CASE, scores=viewed.detach().numpy().copy())
    reference = vs.leaf(CASE)
    VIEWS[view](reference).backward(plain_gradient(moved))
    assert close(scores.grad, reference.grad)


def test_single_expanded_score_column():
    """An (N, 1) column expanded to (N, 4) with stride 0: one row of memory per four scores."""
    column = torch.tensor(CASE.scores[:, :1], requires_grad=True)
    vs.step(CASE, column.expand(-1, 4)).value.backward()
    moved = replace(CASE, scores=np.repeat(CASE.scores[:, :1], 4, axis=1))
    assert close(column.grad, plain_gradient(moved).sum(1, keepdim=True), rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    """Payoff in float64, gradient in the scores' dtype: the float64 gradient of the rounded scores, rounded."""
    scores = vs.leaf(CASE, dtype)
    payoff = vs.step(CASE, scores)
    payoff.value.backward()
    rounded = replace(CASE, scores=scores.detach().double().numpy())
    assert payoff.per_problem.dtype == torch.float64
    assert scores.grad.dtype == dtype
    assert torch.equal(payoff.per_problem, vs.step(rounded, vs.leaf(rounded)).per_problem)
    assert torch.equal(scores.grad, plain_gradient(rounded).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_changes_nothing(dtype):
    outside = vs.leaf(CASE, dtype)
    inside = vs.leaf(CASE, dtype)
    expected = vs.step(CASE, outside)
    expected.value.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = vs.step(CASE, inside)
        result.value.backward()
    assert torch.equal(result.per_problem, expected.per_problem)
    assert torch.equal(result.params, expected.params)
    assert torch.equal(inside.grad, outside.grad)


def test_scores_of_an_autocast_layer():
    layer = torch.nn.Linear(4, 4)
    rows = torch.tensor(CASE.scores, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = layer(rows)
        payoff = vs.step(CASE, scores)
    payoff.value.backward()
    assert scores.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.abs().sum() > 0


@BOTH
@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)], ids=["aot_eager", "inductor"]
)
def test_compile_without_a_graph_break(case, backend):
    labels, arguments = torch.tensor(case.labels), vs.arguments(case)

    def game(scores):
        payoff = auditor_step(torch.tanh(scores), labels, **arguments)
        return 2 * payoff.value + payoff.per_problem[0, 1], payoff.status, payoff.params

    torch.compiler.reset()
    compiled = torch.compile(game, fullgraph=True, backend=backend)
    eager_scores, scores = vs.leaf(case), vs.leaf(case)
    expected, result = game(eager_scores), compiled(scores)
    expected[0].backward()
    result[0].backward()
    assert close(result[0].detach(), expected[0].detach())
    assert torch.equal(result[1], expected[1])
    assert close(result[2], expected[2])
    assert close(scores.grad, eager_scores.grad)


def test_no_grad_and_detached_scores():
    scores = vs.leaf(CASE)
    with torch.no_grad():
        assert not vs.step(CASE, scores).per_problem.requires_grad
    assert not vs.step(CASE, scores.detach()).value.requires_grad
    with torch.inference_mode():
        assert float(vs.step(CASE, scores).value) == float(vs.step(CASE, scores).value)


def test_forward_mode_raises():
    scores = torch.tensor(CASE.scores)
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.func.jvp(value(CASE), (scores,), (torch.ones_like(scores),))
    with torch.autograd.forward_ad.dual_level(), pytest.raises((RuntimeError, NotImplementedError)):
        value(CASE)(torch.autograd.forward_ad.make_dual(scores, torch.ones_like(scores)))


def test_double_backward_raises():
    scores = vs.leaf(CASE)
    (gradient,) = torch.autograd.grad(value(CASE)(scores), scores, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.sum(), scores)
    with pytest.raises(RuntimeError):
        torch.func.hessian(value(CASE))(torch.tensor(CASE.scores))
    with pytest.raises(RuntimeError):
        torch.func.grad(lambda s: torch.func.grad(value(CASE))(s).square().sum())(torch.tensor(CASE.scores))


def test_double_backward_through_the_cotangent_raises():
    """per_problem ↦ gradient is linear in the cotangent: its derivative too would be silently wrong as a zero."""
    scores = vs.leaf(CASE)
    payoffs = vs.step(CASE, scores).per_problem
    cotangent = torch.ones_like(payoffs, requires_grad=True)
    (gradient,) = torch.autograd.grad(payoffs, scores, cotangent, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.sum(), cotangent)


def test_a_second_backward_needs_retain_graph():
    scores = vs.leaf(CASE)
    total = value(CASE)(scores)
    total.backward(retain_graph=True)
    total.backward()
    assert close(scores.grad, 2 * plain_gradient(CASE))


@BOTH
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(case, requires_grad):
    scores = torch.tensor(case.scores, requires_grad=requires_grad)
    masks, normaliser = torch.tensor(case.train_masks), torch.tensor(30.0, dtype=torch.float64)
    rows = (scores, torch.tensor(case.labels), torch.tensor(case.groups), masks, ~masks, normaliser)
    settings = (2, 1, 1e-2, 0.5, 1, case.standardize, 1e-12, 100, 0)
    torch.library.opcheck(torch.ops.amu_fast.auditor_step.default, (*rows, *settings))
