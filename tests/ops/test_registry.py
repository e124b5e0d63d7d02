"""`define` gives an operator of several outputs all that an operator must have."""

from __future__ import annotations

import pytest
import torch

from amu_fast.errors import BackendError
from amu_fast.ops import registry
from amu_fast.ops.schemas import NAMESPACE, SCHEMAS, fingerprint

NAME = "test_scaled_sines"


def reference(x, v, scale):
    return x.sin() @ v * scale, v.cos(), (v > 0).to(torch.int8)


def fake(x, v, scale):
    return x.new_empty(x.shape[:-1]), torch.empty_like(v), torch.empty_like(v, dtype=torch.int8)


def gradient(inputs, saved, cotangents, needs):
    (x, v, scale), (cosine,), (g, *others) = inputs, saved, cotangents
    assert others == [None, None]
    assert cosine.shape == v.shape
    return g.outer(v) * x.cos() * scale if needs[0] else None, x.sin().mT @ g * scale if needs[1] else None, None


@pytest.fixture(scope="module")
def operator():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "SCHEMAS", {NAME: "(Tensor x, Tensor v, float scale) -> (Tensor, Tensor, Tensor)"})
        return registry.define(
            NAME,
            reference=reference,
            fake=fake,
            gradient=gradient,
            saved_outputs=(1,),
            non_differentiable=(1,),
        )


@pytest.fixture
def args():
    x, v = torch.randn(4, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    return x.requires_grad_(), v.requires_grad_(), 2.0


def test_only_the_differentiable_output_carries_a_gradient(operator, args):
    for call in (operator, operator.bare):
        assert [out.requires_grad for out in call(*args)] == [True, False, False]


def test_gradient(operator, args):
    x, v, scale = args
    for call in (operator, operator.bare):
        assert torch.autograd.gradcheck(lambda x, v, call=call: call(x, v, scale)[0], (x, v))
    torch.library.opcheck(
        operator.bare, args, test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
    )


def test_torch_func_and_double_backward(operator, args):
    x, v, scale = args
    got = torch.func.grad(lambda x: operator(x, v.detach(), scale)[0].sum())(x.detach())
    torch.testing.assert_close(got, torch.autograd.grad(reference(*args)[0].sum(), x)[0])
    (first,) = torch.autograd.grad(operator(*args)[0].sum(), x, create_graph=True)
    with pytest.raises(BackendError, match=f"{NAME} is differentiable once"):
        first.sum().backward()


def test_no_gradient_asked_of_the_rest(operator, args):
    """A loss on outputs that carry no gradient must not reach the inputs."""
    with pytest.raises(RuntimeError, match="does not require grad"):
        operator(*args)[1].sum().backward()


def test_operator_without_schema_is_refused():
    with pytest.raises(BackendError, match="'unheard_of' has no schema"):
        registry.define("unheard_of", reference=reference, fake=fake, gradient=gradient)
    for name in ("_unheard_of", "multi_dot"):
        with pytest.raises(BackendError, match=f"in-place operator '{name}' needs an underscore and a schema"):
            registry.define_in_place(name, reference=reference, fake=fake)


@pytest.mark.parametrize("name", SCHEMAS)
def test_private_operators_and_only_they_write_into_arguments(name):
    schema = getattr(getattr(torch.ops, NAMESPACE), name).default._schema
    assert any(argument.is_write for argument in schema.arguments) == name.startswith("_")


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_operator_has_a_gradient_and_a_reference(name):
    """Under Autograd the private ones, which work in place, have a refusal."""
    for key in ("Autograd", "CompositeExplicitAutograd"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", key)


def test_fingerprint_sees_every_change_but_order():
    schemas = {"f": "(Tensor x) -> Tensor", "g": "() -> ()"}
    assert fingerprint(schemas) == fingerprint(dict(reversed(schemas.items())))
    assert fingerprint(schemas) != fingerprint({**schemas, "f": "(Tensor y) -> Tensor"})
    assert fingerprint(schemas) != fingerprint({"f": schemas["f"]})
