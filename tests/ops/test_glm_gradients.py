"""The operators for several right-hand sides, curvatures and mixed derivatives under autograd, torch.func, compile."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from glm_cases import KINDS, L2, WIDTH, randoms

from amu_fast.errors import BackendError
from amu_fast.ops import losses
from amu_fast.ops.glm_curvature import GLM_GRADIENT_CURVATURE, glm_gradient_curvature
from amu_fast.ops.glm_mixed import GLM_MIXED_VJP, glm_mixed_vjp
from amu_fast.ops.glm_multi import GLM_HVP_MULTI, glm_hvp_multi

N, D, K = 6, 4, 3
LABELS = 1  # of the arguments of the two operators that have labels


@dataclass(frozen=True)
class Case:
    """An operator, its public function, its tensor arguments' shapes without batch, and its constants."""

    operator: object
    public: object
    shapes: tuple
    constants: tuple

    def args(self, *, batches=None, dtype=torch.float64, grad=True):
        """Labels are +-1 and never need a gradient; weights of rows are positive."""
        batches = batches or ((),) * len(self.shapes)
        tensors = list(randoms(*[(*b, *s) for b, s in zip(batches, self.shapes, strict=True)], dtype=dtype))
        if self.operator is not GLM_HVP_MULTI:
            tensors[LABELS], tensors[2] = tensors[LABELS].sign(), tensors[2].abs()
        for i in self.differentiable:
            tensors[i].requires_grad_(grad)
        return tuple(tensors)

    @property
    def differentiable(self):
        return [i for i in range(len(self.shapes)) if self.operator is GLM_HVP_MULTI or i != LABELS]

    def bare(self, *tensors):
        return self.operator.bare(*tensors, *self.constants)

    def checked(self, *tensors):
        return self.public(*tensors, *self.constants)

    def plain(self, *tensors):
        """The reference is differentiable torch, of any order."""
        return self.operator.reference(*tensors, *self.constants)


ROWS = ((N, D), (N,), (N,))
CASES = {
    "multi": Case(GLM_HVP_MULTI, glm_hvp_multi, ((N, D), (N, K), (D + 1, K)), (L2, True)),
    "multi_plain": Case(GLM_HVP_MULTI, glm_hvp_multi, ((N, D), (N, 1), (D, K)), (L2, False)),
    **{
        f"curvature_{name}": Case(
            GLM_GRADIENT_CURVATURE, glm_gradient_curvature, (*ROWS, (D + 1,)), (kind, L2, WIDTH, True)
        )
        for name, kind in KINDS.items()
    },
    "curvature_plain": Case(GLM_GRADIENT_CURVATURE, glm_gradient_curvature, (*ROWS, (D,)), (0, L2, WIDTH, False)),
    **{
        f"mixed_{name}": Case(GLM_MIXED_VJP, glm_mixed_vjp, (*ROWS, (D + 1,), (D + 1,)), (kind, WIDTH, True))
        for name, kind in KINDS.items()
    },
    "mixed_plain": Case(GLM_MIXED_VJP, glm_mixed_vjp, (*ROWS, (D,), (D,)), (losses.LOGISTIC, WIDTH, False)),
}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
ONE_EACH = pytest.mark.parametrize("case", [CASES[n] for n in ("multi", "curvature_logistic", "mixed_logistic")])


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


def weighted(result):
    """A scalar that every entry of every output enters with a weight of its own."""
    return sum(
        ((1 + torch.arange(out.numel(), dtype=out.dtype)).sin() * out.flatten()).sum() for out in outputs(result)
    )


def grads(function, args, scalar=weighted):
    return torch.autograd.grad(scalar(function(*args)), [a for a in args if a.requires_grad])


@ALL
@pytest.mark.parametrize("batch", [(), (3,), (0,)])
def test_gradients(case, batch):
    """Of the public function and of the bare operator, against autograd's through the formula."""
    args = case.args(batches=(batch,) * len(case.shapes))
    expected = grads(case.plain, args)
    for call in (case.checked, case.bare):
        torch.testing.assert_close(grads(call, args), expected)


@ALL
def test_gradcheck(case):
    assert torch.autograd.gradcheck(case.bare, case.args())


@ALL
def test_gradients_of_broadcast_arguments(case):
    batches = ((2, 1), (), (3,), (2, 1), (3,))[: len(case.shapes)]
    args = case.args(batches=batches)
    torch.testing.assert_close(grads(case.bare, args), grads(case.plain, args))


@ALL
def test_only_what_is_wanted(case):
    for wanted in case.differentiable:
        args = tuple(a.detach().requires_grad_(i == wanted) for i, a in enumerate(case.args()))
        torch.testing.assert_close(grads(case.checked, args), grads(case.plain, args))


@ALL
def test_every_output_alone(case):
    """A loss on one output leaves the other cotangents None."""
    args = case.args()
    for i in range(len(outputs(case.plain(*args)))):
        got, expected = (
            torch.autograd.grad(outputs(f(*args))[i].sum(), [args[j] for j in case.differentiable], allow_unused=True)
            for f in (case.bare, case.plain)
        )
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a if a is not None else 0 * b, b if b is not None else 0 * a)


COTANGENTS = {
    "sum": lambda y: y.sum(),
    "expand": lambda y: y.expand(4, *y.shape).sum(),
    "cat": lambda y: weighted(torch.cat([y, y.flip(-1)], -1)),
    "slice": lambda y: (y[..., 1::2] ** 2).sum(),
    "transpose": lambda y: (y.movedim(0, -1) * torch.arange(3.0, dtype=y.dtype)).sum(),
    "unused_rows": lambda y: y[1].prod(),
}


@ONE_EACH
@pytest.mark.parametrize("cotangent", COTANGENTS)
def test_cotangents_of_any_stride(case, cotangent):
    args = case.args(batches=((3,),) * len(case.shapes))
    scalar = lambda result: sum(COTANGENTS[cotangent](out) for out in outputs(result) if out.ndim > 1)  # noqa: E731
    torch.testing.assert_close(grads(case.bare, args, scalar), grads(case.plain, args, scalar))


@ONE_EACH
def test_opcheck(case):
    torch.library.opcheck(case.operator.bare, (*case.args(batches=((3,),) * len(case.shapes)), *case.constants))
    torch.library.opcheck(case.operator.bare, (*case.args(dtype=torch.float32, grad=False), *case.constants))


@ALL
def test_torch_func(case):
    args, at = case.args(grad=False), tuple(case.differentiable)
    got = torch.func.grad(lambda *a: weighted(case.checked(*a)), at)(*args)
    torch.testing.assert_close(got, torch.func.grad(lambda *a: weighted(case.plain(*a)), at)(*args))


@ALL
@pytest.mark.parametrize("mapped", [(0,), (2,), (0, 1, 2)])
def test_vmap(case, mapped):
    in_dims = tuple(0 if i in mapped else None for i in range(len(case.shapes)))
    args = case.args(batches=tuple((5,) if i in mapped else () for i in range(len(case.shapes))), grad=False)
    got = torch.func.vmap(case.checked, in_dims)(*args)
    torch.testing.assert_close(got, torch.func.vmap(case.plain, in_dims)(*args))
    at = tuple(case.differentiable)
    got, expected = (
        torch.func.vmap(torch.func.grad(lambda *a, f=f: weighted(f(*a)), at), in_dims)(*args)
        for f in (case.checked, case.plain)
    )
    torch.testing.assert_close(got, expected)


@ONE_EACH
def test_compiles_to_one_graph(case):
    args = case.args(batches=((3,),) * len(case.shapes))
    compiled = torch.compile(lambda *a: weighted(case.checked(*a)), fullgraph=True)
    torch.testing.assert_close(compiled(*args), weighted(case.checked(*args)))
    torch.testing.assert_close(grads(compiled, args, lambda value: value), grads(case.plain, args))


@ONE_EACH
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_forward_mode_raises(case):
    args = case.args(grad=False)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(case.checked, args, args)


@ONE_EACH
def test_double_backward_raises(case):
    for call in (case.checked, case.bare):
        args = case.args()
        (first,) = torch.autograd.grad(weighted(call(*args)), args[0], create_graph=True)
        with pytest.raises(BackendError, match="differentiable once"):
            (first.pow(2).sum() + args[0].pow(2).sum()).backward()


@pytest.mark.parametrize("case", [CASES["curvature_logistic"], CASES["mixed_logistic"]])
def test_a_gradient_of_the_labels_raises(case):
    args = case.args()
    args[LABELS].requires_grad_()
    with pytest.raises(BackendError, match="no gradient of the labels y; detach them"):
        weighted(case.checked(*args)).backward()
