"""Everything a method refuses before its first step: models and data that cannot work, by name and with the fix."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from amu_fast.audit.predict import eval_mode, logits_of
from amu_fast.errors import DataError, SolveError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from amu_fast.rows import Rows

_SHOWN = 3


def check_model(model: Any, rows: Rows) -> int:
    """Check a model against rows that it will be trained on.

    Returns:
        Number of classes, C: the model's outputs.

    Raises:
        DataError: Not a module, nothing to train, NaN or infinity in the weights, outputs that are not (n, C) logits,
            rows that the model cannot take.
    """
    if not isinstance(model, nn.Module):
        raise DataError(f"model is a {type(model).__name__}; methods train weights, so pass a torch.nn.Module")
    if not any(p.requires_grad for p in model.parameters()):
        raise DataError("the model has no parameter with requires_grad=True; unfreeze what may be unlearned")
    bad = nonfinite_weights(model)
    if bad:
        raise DataError(f"the model's weights hold NaN or infinity in {', '.join(bad)}; load a sound checkpoint")
    return count_classes(model, rows)


def nonfinite_weights(model: nn.Module) -> list[str]:
    """Names of up to three parameters or buffers with NaN or infinity. Waits for the device."""
    named = [(n, t) for n, t in (*model.named_parameters(), *model.named_buffers()) if t.is_floating_point()]
    sound = torch.stack([t.detach().isfinite().all() for _, t in named]).tolist()
    return [name for (name, _), good in zip(named, sound, strict=True) if not good][:_SHOWN]


def check_result(model: nn.Module, method: str, steps: int) -> None:
    """Raise SolveError if the weights after a run are not finite. Waits for the device."""
    bad = nonfinite_weights(model)
    if bad:
        raise SolveError(
            f"after step {steps} of {method} the weights hold NaN or infinity in {', '.join(bad)}; lower optimiser.lr "
            "or the method's weight, or set optimiser.clip"
        )


def count_classes(model: nn.Module, rows: Rows) -> int:
    """Outputs of the model on one row, in eval mode and without gradient."""
    inputs, _ = rows.fetch(torch.arange(1))
    with eval_mode(model), torch.no_grad():
        try:
            output = model(inputs.to(device_of(model)))
        except RuntimeError as error:
            raise DataError(
                f"the model cannot take a {rows.name} row of dtype {inputs.dtype} and shape {tuple(inputs.shape)}: "
                f"{error}; convert the inputs or the model"
            ) from error
    return class_logits(output, 1).shape[1]


def class_logits(output: Any, rows: int) -> Tensor:
    """Logits (n, C) in a model's output; DataError, naming type or shape, for anything else."""
    logits = logits_of(output)
    if logits.ndim != 2 or len(logits) != rows or not logits.is_floating_point():
        raise DataError(
            f"the model returned logits of shape {tuple(logits.shape)} and dtype {logits.dtype} for {rows} rows; "
            "return floating-point class logits of shape (n, C)"
        )
    return logits


def device_of(model: nn.Module) -> torch.device:
    """Device of the model's first parameter."""
    return next(model.parameters()).device


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's global generators inside (dropout, initialisers, data sets that augment); put them back after."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.random.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, every submodule has its own former mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
