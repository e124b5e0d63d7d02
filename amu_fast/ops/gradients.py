"""The autograd of an operator: one rule for the bare operator and its front, differentiable once.

A second differentiation raises, whatever the route: it would need the gradient of a gradient, which no operator has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amu_fast.errors import BackendError

Args = tuple[Any, ...]
Grads = tuple[Any, ...]


def under_torch_func() -> bool:
    """Whether a transform of `torch.func` is active: what `autograd.Function.apply` itself asks."""
    return torch._C._are_functorch_transforms_active()


def in_forward_mode() -> bool:
    """Whether tangents may travel: the bare operator would drop them, the front raises."""
    return torch.autograd.forward_ad._current_level >= 0


def without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn autocast off inside `function`, on its first tensor's device: precision is stated, never inherited."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        device = next(a for a in args if isinstance(a, Tensor)).device.type
        if not torch.is_autocast_enabled(device):
            return function(*args)
        with torch.autocast(device, enabled=False):
            return function(*args)

    return wrapper


@dataclass(frozen=True)
class Rule:
    """What autograd needs to know about one operator; shared by the bare operator and its front."""

    name: str
    gradient: Callable[[Args, Args, Grads, tuple[bool, ...]], Grads]
    saved_outputs: tuple[int, ...]
    non_differentiable: tuple[int, ...]

    def setup_context(self, ctx: Any, inputs: Args, output: Any) -> None:
        """Save every tensor argument and the outputs that the gradient reads."""
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.constants = tuple(None if isinstance(a, Tensor) else a for a in inputs)
        ctx.tensor_at = tuple(isinstance(a, Tensor) for a in inputs)
        tensors = [a for a in inputs if isinstance(a, Tensor)]
        ctx.save_for_backward(*tensors, *(outputs[i] for i in self.saved_outputs))
        ctx.mark_non_differentiable(*(outputs[i] for i in self.non_differentiable))
        ctx.set_materialize_grads(False)

    def backward(self, ctx: Any, *cotangents: Tensor | None) -> Grads:
        """Gradients of all arguments; a second differentiation through them raises."""
        needs = tuple(ctx.needs_input_grad)
        if all(g is None for g in cotangents) or not any(needs):
            return (None,) * len(needs)
        tensors = (*cotangents, *ctx.saved_tensors)
        apply = _Gradient.apply
        if not (torch.is_grad_enabled() or torch.compiler.is_compiling() or under_torch_func()):
            # Without create_graph nobody can differentiate this again.
            apply = _Gradient.forward
        wanted = iter(apply(self, ctx.constants, ctx.tensor_at, needs, len(cotangents), *tensors))
        return tuple(next(wanted) if need else None for need in needs)


class _Gradient(torch.autograd.Function):
    """The gradient as a node of its own, tied to all its inputs: differentiating it again cannot pass unseen.

    `once_differentiable` looks only at the cotangent: with a constant one the second-order term would vanish.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        rule: Rule,
        constants: Args,
        tensor_at: tuple[bool, ...],
        needs: tuple[bool, ...],
        count: int,
        *tensors: Any,
    ) -> tuple[Tensor, ...]:
        cotangents, rest = tensors[:count], iter(tensors[count:])
        slots = zip(tensor_at, constants, strict=True)
        inputs = tuple(next(rest) if is_tensor else constant for is_tensor, constant in slots)
        saved = tuple(rest)
        run = without_autocast(lambda *_: rule.gradient(inputs, saved, cotangents, needs))
        grads = run(*inputs)
        return tuple(g for g, need in zip(grads, needs, strict=True) if need)

    @staticmethod
    def setup_context(ctx: Any, inputs: Args, output: Any) -> None:
        ctx.name = inputs[0].name

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise BackendError(
            f"amu_fast::{ctx.name} is differentiable once, and a second differentiation was asked for; "
            "detach its gradient, or use its reference with create_graph=True"
        )


def front(name: str, bare: Callable[..., Any], rule: Rule) -> type[torch.autograd.Function]:
    """Build the `autograd.Function` of an operator: no jvp, batched by the bare operator's rule."""
    methods = {
        "forward": staticmethod(lambda *args: bare(*args)),
        "setup_context": staticmethod(rule.setup_context),
        "backward": staticmethod(rule.backward),
        "generate_vmap_rule": True,
    }
    return type(name, (torch.autograd.Function,), methods)


def node(name: str, bare: Callable[..., Any], rule: Rule) -> type[torch.autograd.Function]:
    """The same for eager mode alone: nothing inspects signatures or fills in defaults, which outlasts small kernels."""

    def forward(ctx: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = bare(*args)
        rule.setup_context(ctx, args, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(rule.backward)}
    return type(name, (torch.autograd.Function,), methods)
