"""What a module's Hessian products cannot be made of, each refused with its remedy.

    batch normalisation by the batch's own statistics    the loss is no mean over rows
    random numbers (dropout)                             every product would be another operator's
    fused attention                                      has no second derivative
    sharded parameters                                   gradients of gradients do not pass through the gathering

The first two and the last are seen on the module, the others while the first batch is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from amu_fast.errors import BackendError, DataError
from amu_fast.linalg.module_function import ModuleFunction

Mode = Literal["double_backward", "jvp", "finite_difference"]
MODES = ("double_backward", "jvp", "finite_difference")

_HALF = (torch.bfloat16, torch.float16)
_FUSED = re.compile(r"ScaledDotProduct|(Flash|Efficient|Cudnn)Att", re.IGNORECASE)
_UNDIFFERENTIABLE = re.compile(
    r"derivative for .*not implemented|forward AD|once_differentiable|support double backward", re.IGNORECASE
)
_REMEDY = (
    "run the forward inside torch.nn.attention.sdpa_kernel(SDPBackend.MATH), load a transformers model with "
    'attn_implementation="eager", or pass mode="finite_difference", which needs first derivatives only'
)


@dataclass
class Sighting:
    """What the graph of an evaluation shows."""

    half: bool = False

    def look(self, result: Any, mode: Mode) -> None:
        """Walk the graph of a result.

        Raises:
            BackendError: fused attention in a mode that differentiates twice.
        """
        waiting, known = [getattr(result, "grad_fn", None)], set()
        while waiting:
            node = waiting.pop()
            if node is None or node in known:
                continue
            known.add(node)
            if mode != "finite_difference" and _FUSED.search(node.name()):
                raise BackendError(f"{node.name()} has no derivative of its own; {_REMEDY}")
            self.half |= any(part.dtype in _HALF for part in node._input_metadata)
            waiting += [successor for successor, _ in node.next_functions]


def refuse_layers(function: ModuleFunction, mode: Mode) -> None:
    """Refuse what can be seen without running the module.

    Raises:
        DataError: unknown mode, batch statistics, active dropout, or sharded parameters in a mode but one.
    """
    if mode not in MODES:
        raise DataError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if function.parameters.sharded and mode != "finite_difference":
        raise DataError(
            f'parameters are sharded over ranks, which mode="{mode}" cannot pass through; pass mode="finite_difference"'
        )
    modules = function.subject.named_modules() if isinstance(function.subject, nn.Module) else ()
    for name, module in modules:
        # torch has no public name for the base classes of its normalisation and dropout layers.
        if isinstance(module, nn.modules.batchnorm._NormBase) and not isinstance(
            module, nn.modules.instancenorm._InstanceNorm
        ):
            if module.training or module.running_mean is None:
                raise DataError(
                    f"{name} ({type(module).__name__}) normalises by the statistics of the batch, so the loss is no "
                    "mean over rows; call model.eval(), which uses the running statistics"
                )
        elif isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise DataError(
                f"{name} drops at random with p = {module.p}; call model.eval() before building an operator"
            )


@contextmanager
def watched(function: ModuleFunction) -> Iterator[None]:
    """Around one evaluation: refuse random numbers.

    Raises:
        DataError: some were drawn.
    """
    before = _random_state(function.parameters.device)
    yield
    if not torch.equal(before, _random_state(function.parameters.device)):
        raise DataError(
            "the function draws random numbers (dropout inside a layer?), so each product would be another operator's; "
            "call model.eval(), or make it deterministic"
        )


@contextmanager
def explained() -> Iterator[None]:
    """Turn torch's complaints about missing derivatives into errors that say what to do."""
    try:
        yield
    except RuntimeError as error:
        if _UNDIFFERENTIABLE.search(str(error)):
            message = str(error).splitlines()[0]
            raise BackendError(f"a layer cannot be differentiated twice ({message}); {_REMEDY}") from error
        raise


def scalar(result: Any) -> Tensor:
    """A loss must be one floating-point number."""
    if not isinstance(result, Tensor) or result.dim() != 0 or not result.is_floating_point():
        shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise DataError(f"the loss must be a scalar tensor, got {shape}; return the mean over the batch's rows")
    return result


def outputs(result: Any) -> Tensor:
    """Outputs must be one floating-point tensor."""
    if not isinstance(result, Tensor) or result.dim() == 0 or not result.is_floating_point():
        raise DataError(
            f"outputs must be one floating-point tensor of several entries, got {type(result).__name__}; return the "
            "logits (or one loss per row), not a structure"
        )
    return result


def _random_state(device: torch.device) -> Tensor:
    """Of the generator that random layers use; waits for a GPU."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
