"""The one way to define an operator: schema, reference, fake, gradient, batching rule, in an order that works.

    Library.define -> reference as CompositeExplicitAutograd -> register_fake -> register_autograd -> load _C

The reference is registered as `CompositeExplicitAutograd`, so a compiled kernel for one device wins over it
whatever the order of loading. Every operator has a gradient; one without would give wrong gradients in silence.
The private operators that write into their arguments cannot have one: they refuse autograd (`define_in_place`).
To add one:

1. add its schema to `amu_fast/ops/schemas.py`;
2. write the reference, the fake and the gradient in `amu_fast/ops/<family>.py` and pass them to `define`;
3. import that module in `amu_fast/ops/__init__.py`.

A compiled kernel is a fourth, optional place: `STABLE_TORCH_LIBRARY_IMPL` in `csrc/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amu_fast import backends
from amu_fast.errors import BackendError
from amu_fast.ops.gradients import Args, Grads, Rule, front, in_forward_mode, node, under_torch_func, without_autocast
from amu_fast.ops.schemas import NAMESPACE, SCHEMAS

_LIBRARY = torch.library.Library(NAMESPACE, "DEF")


@dataclass(frozen=True)
class Operator:
    """An operator of the dispatcher with its differentiable front.

    Attributes:
        bare: the dispatcher's own callable, without checks; solver loops call it.
        front: `torch.autograd.Function` over it: works under `torch.func`, raises in forward mode.
        node: the same for plain eager mode, at a fraction of the cost of a call.
        reference: the PyTorch reference; stays callable, so a test compares both in one process.
    """

    bare: Callable[..., Any]
    front: type[torch.autograd.Function]
    node: type[torch.autograd.Function]
    reference: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        """Call the operator with positional arguments in the schema's order.

        The compiler differentiates the bare operator itself, by its registered gradient, and sees one node.
        """
        if torch.compiler.is_compiling():
            return self.bare(*args)
        if under_torch_func() or in_forward_mode():
            return self.front.apply(*args)
        return self.node.apply(*args) if torch.is_grad_enabled() else self.bare(*args)


@dataclass(frozen=True)
class InPlace:
    """A private operator that writes into its arguments.

    Attributes:
        bare: the dispatcher's own callable, without checks.
        reference: the PyTorch reference; stays callable, so a test compares both in one process.
    """

    bare: Callable[..., Any]
    reference: Callable[..., Any]


def define(
    name: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    gradient: Callable[[Args, Args, Grads, tuple[bool, ...]], Grads],
    vmap: Callable[..., Any] | None = None,
    saved_outputs: Sequence[int] = (),
    non_differentiable: Sequence[int] = (),
) -> Operator:
    """Define `amu_fast::<name>` and return it.

    Args:
        name: a key of `SCHEMAS`.
        reference: `reference(*args)`, plain PyTorch; runs without autograd and outside autocast.
        fake: `fake(*args)`, empty outputs of the right shape, dtype and device.
        gradient: `gradient(inputs, saved, cotangents, needs)`, a pure function outside autocast. `inputs` are
            all arguments, `saved` the outputs named by `saved_outputs`, in that order; `cotangents` has one entry
            per output, None where nothing arrived (strides are arbitrary, zero included); `needs` has one flag
            per argument. Returns one entry per argument, None where `needs` is False. A second differentiation,
            through these gradients, raises.
        vmap: `vmap(info, in_dims, *args) -> (outputs, out_dims)` as for `torch.library.register_vmap`; None:
            `torch.func.vmap` runs this operator in a slow loop.
        saved_outputs: indices of outputs that `gradient` reads.
        non_differentiable: indices of floating-point outputs without gradient (integer ones need no mention).

    Returns:
        The operator. Call it; or its `.bare` in solver loops.

    Raises:
        BackendError: `name` has no schema.
    """
    if name not in SCHEMAS:
        raise BackendError(f"operator {name!r} has no schema among {list(SCHEMAS)}; add it to ops/schemas.py")
    rule = Rule(name, gradient, tuple(saved_outputs), tuple(non_differentiable))
    qualified = f"{NAMESPACE}::{name}"
    reference = without_autocast(reference)
    _LIBRARY.define(name + SCHEMAS[name], tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    backends.references[qualified] = reference
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    torch.library.register_autograd(qualified, rule.backward, setup_context=rule.setup_context, lib=_LIBRARY)
    if vmap is not None:
        torch.library.register_vmap(qualified, vmap, lib=_LIBRARY)
    bare = getattr(getattr(torch.ops, NAMESPACE), name).default
    return Operator(bare, front(name, bare, rule), node(name, bare, rule), reference)


def define_in_place(name: str, *, reference: Callable[..., Any], fake: Callable[..., Any]) -> InPlace:
    """Define `amu_fast::<name>`, which writes into some of its arguments, and return it.

    Args:
        name: a key of `SCHEMAS` that begins with an underscore.
        reference: `reference(*args)`, plain PyTorch, writes into the arguments that the schema marks with `!`.
        fake: `fake(*args)`, empty outputs of the right shape, dtype and device; writes nothing.

    Returns:
        The operator; whatever asks for its gradient, reverse or forward, raises BackendError.

    Raises:
        BackendError: `name` has no schema, or no underscore.
    """
    if name not in SCHEMAS or not name.startswith("_"):
        raise BackendError(f"in-place operator {name!r} needs an underscore and a schema; add it to ops/schemas.py")
    qualified = f"{NAMESPACE}::{name}"
    reference = without_autocast(reference)
    _LIBRARY.define(name + SCHEMAS[name], tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    backends.references[qualified] = reference
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    bare = getattr(getattr(torch.ops, NAMESPACE), name).default
    written = tuple(i for i, argument in enumerate(bare._schema.arguments) if argument.is_write)

    def refuse_autograd(keyset: Any, *args: Any) -> Any:
        if any(isinstance(a, Tensor) and _tracked(a) for a in args):
            raise BackendError(
                f"{qualified} writes into its arguments and has no gradient; "
                "call it under torch.no_grad(), on tensors without forward-mode tangents"
            )
        torch.autograd.graph.increment_version([args[i] for i in written])
        with torch._C._AutoDispatchBelowAutograd():
            return bare.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    _LIBRARY.impl(name, refuse_autograd, "Autograd", with_keyset=True)
    return InPlace(bare, reference)


def _tracked(a: Tensor) -> bool:
    """Whether autograd records what happens to `a`, backward or forward."""
    if torch.is_grad_enabled() and a.requires_grad:
        return True
    return torch.autograd.forward_ad.unpack_dual(a).tangent is not None if in_forward_mode() else False
