"""What a model answers on the rows of one split, in the order of the rows.

Two models are compared row by row (S6), so the order is part of the result: a shuffling loader is read in
its data set's order, and a loader whose order or selection cannot be known is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Subset
from torch.utils.data.sampler import RandomSampler, SequentialSampler, SubsetRandomSampler

from amu_fast.errors import DataError


def predict(model: nn.Module, rows: Any, batch_size: int = 256) -> tuple[Tensor, Tensor]:
    """Logits and labels of every row, without gradient and in eval mode.

    Args:
        model: called as `model(inputs)`; returns a logits tensor, or an object or dict with `logits`.
        rows: a tuple (inputs (n, ...), labels (n,)), a map-style data set of such pairs, or a DataLoader of them.
        batch_size: rows per forward pass, for everything but a loader that brings its own.

    Returns:
        logits (n, ...) and labels (n,), on the model's device. The mode of every submodule is as before.

    Raises:
        DataError: no rows, rows or outputs of another form, or a loader whose row order is unknowable.
    """
    device = _device_of(model)
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    with eval_mode(model), torch.no_grad():
        for inputs, targets in iterate_batches(rows, batch_size):
            logits.append(logits_of(model(inputs.to(device))))
            labels.append(targets.to(device))
    if sum(map(len, labels)) == 0:
        raise DataError("predict got 0 rows; pass a split with at least one row")
    return torch.cat(logits), torch.cat(labels)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule has its own former mode, not one mode for all."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def logits_of(output: Any) -> Tensor:
    """The logits in a model's output: a tensor, or the field `logits` of an object or dict."""
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise DataError(
        f"the model returned {_describe(output)}; return the logits tensor, or an object or dict with 'logits' "
        f"(wrap the model in an nn.Module whose forward picks them)"
    )


def iterate_batches(rows: Any, batch_size: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches (inputs, labels) of a split, in row order, no row dropped."""
    if batch_size < 1:
        raise DataError(f"batch_size must be >= 1, got {batch_size}")
    if isinstance(rows, (tuple, list)):
        return _tensor_batches(rows, batch_size)
    if isinstance(rows, DataLoader):
        return _checked(_in_order(rows))
    if hasattr(rows, "__getitem__") and hasattr(rows, "__len__"):
        return _checked(DataLoader(rows, batch_size=batch_size))
    raise DataError(
        f"rows must be a tuple (inputs, labels), a map-style data set or a DataLoader, got {type(rows).__name__}"
    )


def _tensor_batches(rows: Any, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    if len(rows) != 2 or not all(isinstance(part, Tensor) for part in rows):
        raise DataError(f"tensor rows must be (inputs, labels), got {_describe(rows)}")
    inputs, labels = rows
    if len(inputs) != len(labels):
        raise DataError(f"inputs have {len(inputs)} rows and labels {len(labels)}; they must be equal")
    return zip(inputs.split(batch_size), labels.split(batch_size), strict=True)


def _in_order(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The loader's own batches in its data set's order: shuffling undone, `drop_last` undone."""
    dataset, sampler = loader.dataset, loader.sampler
    if isinstance(dataset, IterableDataset):
        return loader
    if type(loader.batch_sampler) not in (BatchSampler, type(None)) or loader.batch_size is None:
        raise DataError(
            f"a loader with its own batch sampler ({type(loader.batch_sampler).__name__}) has no known row order; "
            f"pass its data set, or a Subset of it"
        )
    if type(sampler) is SubsetRandomSampler:
        dataset = Subset(dataset, list(sampler.indices))
    elif type(sampler) not in (SequentialSampler, RandomSampler):
        raise DataError(
            f"a loader with a {type(sampler).__name__} has no known row order; pass its data set, or a Subset of it"
        )
    return DataLoader(
        dataset, batch_size=loader.batch_size, collate_fn=loader.collate_fn, num_workers=loader.num_workers
    )


def _checked(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in loader:
        pair = isinstance(batch, (tuple, list)) and len(batch) == 2
        if not pair or not all(isinstance(part, Tensor) for part in batch):
            raise DataError(f"each batch must be (inputs, labels) tensors, got {_describe(batch)}")
        yield batch[0], batch[1]


def _device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with keys {sorted(map(str, value))}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {[type(part).__name__ for part in value]}"
    return f"a {type(value).__name__}"
