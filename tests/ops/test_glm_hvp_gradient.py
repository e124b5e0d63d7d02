"""glm_hvp under autograd, torch.func and torch.compile: right where it works, loud where it does not."""

from __future__ import annotations

import pytest
import torch

from amu_fast.errors import BackendError
from amu_fast.ops.glm import GLM_HVP, glm_hvp

L2 = 0.1
CALLS = pytest.mark.parametrize("call", [glm_hvp, GLM_HVP.bare], ids=["public", "bare"])


def problem(*, batch=(), n=6, d=4, dtype=torch.float64, grad=True):
    shapes = ((*batch, n, d), (*batch, n), (*batch, d + 1))
    return tuple(torch.randn(*shape, dtype=dtype).requires_grad_(grad) for shape in shapes)


def plain(x, c, v):
    """The formula in differentiable torch, of any order."""
    ones = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    z = (ones @ v.unsqueeze(-1)).squeeze(-1)
    return (ones.mT @ (c * z).unsqueeze(-1)).squeeze(-1) + L2 * v


def fused(x, c, v):
    return glm_hvp(x, c, v, L2, True)


@CALLS
@pytest.mark.parametrize("batch", [(), (3,), (0,)])
def test_gradcheck(call, batch):
    assert torch.autograd.gradcheck(lambda x, c, v: call(x, c, v, L2, True), problem(batch=batch))


@CALLS
def test_gradcheck_without_intercept(call):
    x, c, v = problem()
    assert torch.autograd.gradcheck(lambda x, c, v: call(x, c, v, L2, False), (x, c, v.detach()[:-1].requires_grad_()))


def test_gradcheck_of_broadcast_arguments():
    x, c, v = problem(batch=(2, 1))[0], problem()[1], problem(batch=(3,))[2]
    assert torch.autograd.gradcheck(fused, (x, c, v))


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_only_what_is_wanted(wanted):
    args = problem()
    for i, t in enumerate(args):
        t.requires_grad_(i in wanted)
    fused(*args).sum().backward()
    expected = torch.autograd.grad(plain(*args).sum(), [args[i] for i in wanted])
    assert all((t.grad is not None) == (i in wanted) for i, t in enumerate(args))
    for i, e in zip(wanted, expected, strict=True):
        torch.testing.assert_close(args[i].grad, e)


COTANGENTS = {
    "sum": lambda y: y.sum(),
    "expand": lambda y: y.expand(4, *y.shape).sum(),
    "cat": lambda y: (torch.cat([y, y.flip(-1)], -1) * torch.arange(2.0 * y.shape[-1], dtype=y.dtype)).sum(),
    "slice": lambda y: (y[..., 1::2] ** 2).sum(),
    "transpose": lambda y: (y.mT * torch.arange(3.0, dtype=y.dtype)).sum(),
    "unused_rows": lambda y: y[1].prod(),
}


@CALLS
@pytest.mark.parametrize("cotangent", COTANGENTS)
def test_cotangents_of_any_stride(call, cotangent):
    args = problem(batch=(3,))
    got = torch.autograd.grad(COTANGENTS[cotangent](call(*args, L2, True)), args)
    expected = torch.autograd.grad(COTANGENTS[cotangent](plain(*args)), args)
    torch.testing.assert_close(got, expected)


def test_opcheck():
    torch.library.opcheck(GLM_HVP.bare, (*problem(batch=(3,)), L2, True))
    torch.library.opcheck(GLM_HVP.bare, (*problem(dtype=torch.float32, grad=False), L2, True))


@pytest.mark.parametrize("arg", [0, 1, 2])
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev], ids=["grad", "jacrev"])
def test_torch_func(transform, arg):
    args = problem(grad=False)
    reduce = (lambda y: y.pow(2).sum()) if transform is torch.func.grad else (lambda y: y)
    got = transform(lambda *a: reduce(fused(*a)), arg)(*args)
    torch.testing.assert_close(got, transform(lambda *a: reduce(plain(*a)), arg)(*args))


def test_torch_func_vjp():
    args = problem(grad=False)
    out, pull = torch.func.vjp(fused, *args)
    expected, pull_plain = torch.func.vjp(plain, *args)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(pull(torch.ones_like(out)), pull_plain(torch.ones_like(out)))


@pytest.mark.parametrize(
    ("in_dims", "batches"),
    [
        ((0, 0, 0), ((5,), (5,), (5,))),
        ((None, None, 0), ((), (), (5,))),
        ((1, None, 0), ((), (), (5,))),
        ((0, None, None), ((5, 2), (), (3, 1))),
        ((None, 0, None), ((3, 2), (5,), ())),
    ],
)
def test_vmap(in_dims, batches):
    x, c, v = (problem(batch=b, grad=False)[i] for i, b in enumerate(batches))
    if in_dims[0] == 1:
        x = torch.randn(6, 5, 4, dtype=torch.float64)
    for function in (lambda f: f, lambda f: torch.func.grad(lambda *a: f(*a).pow(2).sum(), (0, 1, 2))):
        got = torch.func.vmap(function(fused), in_dims)(x, c, v)
        torch.testing.assert_close(got, torch.func.vmap(function(plain), in_dims)(x, c, v))


def test_nested_vmap():
    x, c, v = problem(grad=False)[0], problem(batch=(3,), grad=False)[1], problem(batch=(2,), grad=False)[2]
    both = [torch.func.vmap(torch.func.vmap(f, (None, 0, None)), (None, None, 0))(x, c, v) for f in (fused, plain)]
    torch.testing.assert_close(*both)


def test_compiles_to_one_graph():
    args = problem(batch=(3,))
    compiled = torch.compile(lambda *a: fused(*a).cos().sum(), fullgraph=True)
    eager = fused(*args).cos().sum()
    torch.testing.assert_close(compiled(*args), eager)
    torch.testing.assert_close(torch.autograd.grad(compiled(*args), args), torch.autograd.grad(eager, args))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_forward_mode_raises():
    args = problem(grad=False)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(fused, args, args)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jacfwd(fused, 2)(*args)


@CALLS
@pytest.mark.parametrize("arg", [0, 1, 2])
def test_double_backward_raises(call, arg):
    """Even where the cotangent is constant and another term would carry the second derivative on in silence."""
    args = problem()
    (first,) = torch.autograd.grad(call(*args, L2, True).sum(), args[arg], create_graph=True)
    with pytest.raises(BackendError, match="glm_hvp is differentiable once"):
        (first.pow(2).sum() + args[0].pow(2).sum()).backward()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_second_derivatives_under_torch_func_raise():
    args = problem(grad=False)
    inner = torch.func.grad(lambda *a: fused(*a).sum())
    with pytest.raises(BackendError, match="differentiable once"):
        torch.func.grad(lambda x: inner(x, *args[1:]).pow(2).sum() + x.sum())(args[0])
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.hessian(lambda x: fused(x, *args[1:]).sum())(args[0])
