"""The parts of one step's batch, and what a model answers on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from amu_fast.audit.predict import logits_of
from amu_fast.audit.scores import ModelOutputs
from amu_fast.errors import DataError

Part = Mapping[str, Tensor]

AUXILIARY = ("clusters", "rows", "segments", "zlib_lengths", "reference", "original")
"""Keys of a part that the model never sees.

    clusters      (n,) int64, person of each row
    rows          (n,) int64, number of each row in its data set
    segments      (n, T) int64, sequence of each position of a packed batch, -1 for padding
    zlib_lengths  (n,) int64, bytes of each compressed text
    reference     (n,) mean log p of each sequence under a model that never saw the forget rows
    original      (n,) summed log p of each sequence under the model before unlearning
"""


@dataclass(frozen=True, eq=False)
class UnlearningBatch:
    """What one step (or one micro-batch of it) works on.

    Args:
        retain: The model's keyword inputs, `labels` among them, and keys of `AUXILIARY`; None if not needed.
        forget: The same of forget rows: members.
        validation: The same of validation rows: non-members.
        step: Number of the optimiser step, from 0.
    """

    retain: Part | None = None
    forget: Part | None = None
    validation: Part | None = None
    step: int = 0

    def part(self, name: str) -> Part:
        """One part; DataError if this batch does not have it."""
        part = getattr(self, name)
        if part is None:
            raise DataError(
                f"step {self.step} needs {name} rows and the batch has none; ask `needs(step)` for the parts"
            )
        return part


def labels_of(part: Part) -> Tensor:
    """The labels of a part; DataError if it has none."""
    if "labels" not in part:
        raise DataError(f"a part needs 'labels', got {sorted(part)}; label tokens that do not count with -100")
    return part["labels"]


def rows_of(part: Part) -> int:
    """Rows of a part, as the model sees them."""
    return labels_of(part).shape[0]


def outputs_of(model: nn.Module, part: Part, *, gradient: bool = True, hidden: bool = False) -> ModelOutputs:
    """What `model` answers on the rows of a part, in its current mode.

    The model is called with the part's keys less `labels` and `AUXILIARY`: no loss is computed that nobody asked for.

    Args:
        model: Returns logits, or an object or dict with `logits`.
        part: n rows.
        gradient: Keep the graph.
        hidden: Ask for hidden states as well, and keep the last layer's.

    Raises:
        DataError: No labels, no logits, or no hidden states.
    """
    labels = labels_of(part)
    inputs = {key: value for key, value in part.items() if key != "labels" and key not in AUXILIARY}
    options: dict[str, Any] = {"output_hidden_states": True} if hidden else {}
    if getattr(_config(model), "use_cache", False):
        # generation's cache of keys and values, which a model in eval mode builds
        options["use_cache"] = False
    rows = rows_of(part)
    if rows == 0:
        # not every model can go forward without a row, and every rank must: one of ones, of which nothing is used
        inputs = {key: value.new_ones((1, *value.shape[1:])) for key, value in inputs.items()}
    with nullcontext() if gradient else torch.no_grad():
        output = model(**inputs, **options)
    if not gradient:
        _reshard(model)
    logits = logits_of(output)[: None if rows else 0]
    extra = {key: part[key] for key in ("segments", "zlib_lengths") if key in part}
    return ModelOutputs(
        logits,
        labels,
        mask=part.get("attention_mask") if logits.dim() == 3 else None,
        hidden=_last_hidden(output)[: None if rows else 0] if hidden else None,
        reference=part.get("reference"),
        extra=extra,
    )


@contextmanager
def audit_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, without losing gradient checkpointing; afterwards every submodule has its former mode.

    Members and non-members are scored without dropout and under frozen statistics (docs/game.md section 7). Layers of
    transformers checkpoint in train mode only, so those that have it on and no dropout of their own stay in it.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for module, training in modes:
        if training and getattr(module, "gradient_checkpointing", False) and not _drops(module):
            module.training = True
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _drops(module: nn.Module) -> bool:
    """Whether a layer drops anything itself: a number named like dropout that is not 0."""
    numbers = ((k, v) for k, v in vars(module).items() if isinstance(v, (int, float)))
    return any("drop" in name and value != 0 for name, value in numbers)


def _reshard(model: nn.Module) -> None:
    """Let go of parameters that FSDP2 gathered for a forward without backward.

    The outermost module keeps them until a backward, and the next forward would miss an optimiser's step in between.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and isinstance(model, fsdp.FSDPModule):
        model.reshard()


def _config(model: nn.Module) -> Any:
    """The configuration of a transformers model, under whatever wraps it."""
    inner: Any = model
    while not hasattr(inner, "config") and isinstance(getattr(inner, "module", None), nn.Module):
        inner = inner.module
    return getattr(inner, "config", None)


def _last_hidden(output: Any) -> Tensor:
    states = output.get("hidden_states") if isinstance(output, Mapping) else getattr(output, "hidden_states", None)
    if not states:
        raise DataError(
            f"the model returned a {type(output).__name__} without hidden_states; this score map needs a model that "
            "takes output_hidden_states=True"
        )
    return states[-1]
