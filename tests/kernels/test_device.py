"""The kernels on a CUDA device, through the dispatcher: the interpreter's comparisons, memory beyond 2^31, streams."""

from __future__ import annotations

import kernel_cases
import pytest
import torch
from kernel_cases import GLM, LOSSES, MAKERS, Problem, as_tuple, assert_accurate, dispatched

from amu_fast import backends, ops

pytestmark = pytest.mark.gpu
WIDTHS = (1, 16, 17, 64, 257, 1001, 4096, 5000)


def on_device(problem):
    return problem.map(lambda t: t.cuda())


def run(name, problem):
    outputs = as_tuple(dispatched(name)(*on_device(problem).arguments))
    return tuple(output.cpu() for output in outputs)


def test_triton_serves_the_device():
    served = {row.operator for row in backends.table() if row.device == "CUDA" and row.implementation == "Triton"}
    assert served >= {f"{ops.NAMESPACE}::{name}" for name in MAKERS}


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("n", [0, 1, 63, 5000])
@pytest.mark.parametrize("name", MAKERS)
def test_matches_the_formulas(name, n, d):
    problem = MAKERS[name](n, d)
    assert_accurate(name, run(name, problem), problem)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["glm_gradient_curvature", "glm_mixed_vjp"])
def test_losses(name, loss):
    problem = MAKERS[name](5000, 33, loss=loss, batch=(2,))
    assert_accurate(name, run(name, problem), problem)


@pytest.mark.parametrize("k", [1, 4, 5, 16, 17, 64])
def test_right_hand_sides(k):
    problem = MAKERS["glm_hvp_multi"](3000, 100, k=k)
    assert_accurate("glm_hvp_multi", run("glm_hvp_multi", problem), problem)


@pytest.mark.parametrize("d", [17, 64, 1001, 4096])
@pytest.mark.parametrize("name", [*GLM, "score_moments"])
def test_bfloat16(name, d):
    problem = MAKERS[name](777, d)
    problem = Problem((problem.tensors[0].bfloat16(), *problem.tensors[1:]), problem.scalars)
    assert_accurate(name, run(name, problem), problem)


@pytest.mark.parametrize("name", MAKERS)
def test_float64_runs_the_reference(name):
    problem = MAKERS[name](17, 33).map(lambda t: t.double() if t.is_floating_point() else t)
    outputs = run(name, problem)
    reference = backends.references[f"{ops.NAMESPACE}::{name}"](*on_device(problem).arguments)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(outputs, as_tuple(reference), strict=True))


@pytest.mark.parametrize("change", [lambda t: t.mT.contiguous().mT if t.ndim > 1 else t, lambda t: t[:1].expand_as(t)])
@pytest.mark.parametrize("name", ["glm_hvp", "glm_hvp_multi", "multi_dot", "score_moments"])
def test_layouts(name, change):
    problem = MAKERS[name](130, 33, batch=(3,))
    outputs = as_tuple(dispatched(name)(*on_device(problem).map(change).arguments))
    assert_accurate(name, tuple(o.cpu() for o in outputs), problem.map(change))


@pytest.mark.parametrize("name", MAKERS)
def test_repeats_are_bitwise_equal(name):
    problem = on_device(MAKERS[name](5000, 257))
    first = as_tuple(dispatched(name)(*problem.arguments))
    for _ in range(3):
        again = as_tuple(dispatched(name)(*problem.arguments))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_beyond_2_31_elements():
    """Only the last rows are not zero: an offset that wraps reads a zero or writes over one."""
    n, d = 2**19 + 3, 4112
    x = torch.zeros(n, d, dtype=torch.bfloat16, device="cuda")
    x[-5:] = torch.randn(5, d, device="cuda").bfloat16()
    c, v = torch.rand(n, device="cuda"), torch.randn(d, device="cuda")
    assert x.numel() > 2**31
    tail = Problem((x[-5:].cpu(), c[-5:].cpu(), v.cpu()), (0.1, False))
    assert_accurate("glm_hvp", dispatched("glm_hvp")(x, c, v, 0.1, False).cpu(), tail)
    labels = torch.zeros(n, dtype=torch.int64, device="cuda")
    outputs = dispatched("score_moments")(x, labels)
    last = Problem((x[-5:].cpu(), labels[-5:].cpu()), ())
    assert_accurate("score_moments", tuple(o[-5:].cpu().contiguous() for o in outputs), last)


def test_launches_on_the_current_stream():
    """The product waits for what its own stream does to x, and for nothing else."""
    problem = on_device(MAKERS["glm_hvp"](5000, 64))
    x, c, v = problem.tensors
    expected = dispatched("glm_hvp")(2 * x, c, v, *problem.scalars)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.mul_(2)
        got = dispatched("glm_hvp")(x, c, v, *problem.scalars)
    stream.synchronize()
    assert torch.equal(got, expected)


def test_captured_in_a_graph():
    """A conjugate-gradient step without a host synchronisation: captured, replayed, equal to itself run eagerly."""
    x, c, r = (t.cuda() for t in MAKERS["glm_hvp"](5000, 64, intercept=False).tensors)

    def state():
        return r.clone(), torch.zeros_like(r), r.clone(), torch.ones((), device="cuda").double()

    def step(r, y, p, rz):
        restart, running = torch.zeros(2, dtype=torch.bool, device="cuda")
        hp = dispatched("glm_hvp")(x, c, p, 0.1, False)
        dispatched("_cg_update")(p, hp, rz, running.logical_not(), y, r)
        dispatched("_cg_direction")(r, r, p, rz, restart, running.logical_not())

    eager, captured = state(), state()
    for _ in range(3):
        step(*eager)
    warm = state()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step(*warm)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(*captured)
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(eager, captured, strict=True))


def test_gradient_of_scores():
    logits, labels = MAKERS["score_moments"](300, 1001).tensors
    on_gpu = logits.cuda().requires_grad_()
    outputs = ops.score_moments.score_moments(on_gpu, labels.cuda())[:4]
    cotangents = [torch.randn(300) for _ in range(4)]
    got = torch.autograd.grad(outputs, on_gpu, [g.cuda() for g in cotangents])[0].cpu()
    exact = kernel_cases.formulas.score_moments_gradient(logits.double(), labels, [g.double() for g in cotangents])
    assert (got - exact).abs().max() <= 1e-4 * exact.abs().max()
