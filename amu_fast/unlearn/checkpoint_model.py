"""States of models and optimizers as one process would have them, whatever wraps them, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from amu_fast.errors import DataError

if TYPE_CHECKING:
    from amu_fast.unlearn.checkpoint import Checkpoint

_SHOWN = 3
# states of torch's optimizers with the parameter's shape; others are counters, factors, or somebody else's blocks
_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "grad_avg", "sum")


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state under its own names: without DDP's or torch.compile's prefix, shards gathered on the CPU.

    Args:
        model: With sharded parameters (FSDP2), call this on every rank; all but rank 0 then get an empty state.
    """
    if is_sharded(model):
        module, options = _sharded()
        return dict(module.get_model_state_dict(model, options=options))
    return dict(unwrapped(model).state_dict())


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state; with sharded parameters gathered on the CPU, by parameter name, on rank 0.

    Args:
        model: The model of the optimizer.
        optimizer: With sharded parameters, call this on every rank.
    """
    if is_sharded(model):
        module, options = _sharded()
        return dict(module.get_optimizer_state_dict(model, optimizer, options=options))
    return optimizer.state_dict()


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Load the states of a checkpoint into the model and the optimizer, in place.

    Args:
        checkpoint: Read on every rank.
        model: Built as it was when the checkpoint was made, and wrapped in any way.
        optimizer: Of this model; None leaves it out.

    Raises:
        DataError: Names, shapes or groups do not fit; neither was changed.
    """
    shards = is_sharded(model)
    check_fit(checkpoint.model, model)
    if optimizer is not None:
        check_optimizer(checkpoint.optimizer, model, optimizer)
    if shards:
        module, options = _sharded()
        module.set_model_state_dict(model, dict(checkpoint.model), options=options)  # it changes the dict
        if optimizer is not None:
            named = _by_name(checkpoint.optimizer, _names(model, optimizer))
            module.set_optimizer_state_dict(model, optimizer, named, options=options)
        return
    unwrapped(model).load_state_dict(checkpoint.model)
    if optimizer is not None:
        optimizer.load_state_dict({**checkpoint.optimizer, "state": _copied(checkpoint.optimizer["state"])})


def check_fit(state: Mapping[str, Tensor], model: nn.Module) -> None:
    """DataError unless `state` has the model's names, shapes and dtypes."""
    wanted = {name: (tuple(value.shape), value.dtype) for name, value in unwrapped(model).state_dict().items()}
    found = {name: (tuple(value.shape), value.dtype) for name, value in state.items()}
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is unknown to the model" for name in found if name not in wanted]
    problems += [
        f"{name} is {found[name][1]} {found[name][0]} and the model's {wanted[name][1]} {wanted[name][0]}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            f"the checkpoint does not fit the model: {'; '.join(problems[:_SHOWN])}{more}; build the model with the "
            "options it had when the checkpoint was made"
        )


def check_optimizer(state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """DataError unless `state` has the optimizer's groups, with the same parameters and states of their shapes."""
    groups = state.get("param_groups")
    if groups is None:
        raise DataError("the checkpoint has no optimizer state; save it with optimizer=, or restore the model alone")
    sizes = [len(group["params"]) for group in groups]
    expected = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != expected:
        raise DataError(
            f"the checkpoint's optimizer has parameter groups of {sizes} and this one of {expected}; build it alike"
        )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in groups for number in group["params"]]
    for number, parameter, name in zip(numbers, parameters, _names(model, optimizer), strict=True):
        if isinstance(number, str) and number != name:
            raise DataError(
                f"the checkpoint's optimizer has {number} where this one has {name}; give it its parameters in the "
                "same order"
            )
        for key, value in state["state"].get(number, {}).items():
            if key in _MOMENTS and isinstance(value, Tensor) and value.shape != parameter.shape:
                raise DataError(
                    f"the optimizer's {key} of parameter {number} is {tuple(value.shape)} and the parameter "
                    f"{tuple(parameter.shape)}; give the optimizer its parameters in the same order"
                )


def is_sharded(model: nn.Module) -> bool:
    """Whether a parameter is spread over ranks as a DTensor."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, below DDP, DataParallel and torch.compile."""
    inner = model
    while True:
        below = getattr(inner, "_orig_mod", None)
        if isinstance(inner, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            below = inner.module
        if not isinstance(below, nn.Module):
            return inner
        inner = below


def _copied(state: Mapping[Any, Mapping[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Tensors of their own for an optimizer, which would otherwise step on the checkpoint's."""
    return {
        key: {name: value.clone() if isinstance(value, Tensor) else value for name, value in states.items()}
        for key, states in state.items()
    }


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the optimizer's parameters, in its order."""
    names = {id(parameter): name for name, parameter in unwrapped(model).named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if any(id(parameter) not in names for parameter in parameters):
        raise DataError("the optimizer has parameters that the model has not; build it from model.parameters()")
    return [names[id(parameter)] for parameter in parameters]


def _by_name(state: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """An optimizer's state with names in place of numbers."""
    saved = [key for group in state["param_groups"] for key in group["params"]]
    new = dict(zip(saved, names, strict=True))
    groups = [{**group, "params": [new[key] for key in group["params"]]} for group in state["param_groups"]]
    return {"state": {new[key]: value for key, value in _copied(state["state"]).items()}, "param_groups": groups}


def _sharded() -> tuple[Any, Any]:
    """What torch has for sharded states, slow to import, and the options that gather them."""
    from torch.distributed.checkpoint import state_dict

    return state_dict, state_dict.StateDictOptions(full_state_dict=True, cpu_offload=True)
