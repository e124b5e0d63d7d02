"""Uniform access to rows: `len(rows)` and `rows.fetch(indices) -> (inputs, labels)`.

Tensors are read by `index_select`; everything else through the data set's own `__getitem__` and collate function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from amu_fast.errors import DataError

Part: TypeAlias = "tuple[Tensor, Tensor] | Dataset[Any] | DataLoader[Any] | Rows"


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one part, in a fixed order.

    Args:
        name: The part's name, for messages.
        tensors: `(inputs (N, ...), labels (N,) int64)` of the whole base, or None if it isn't made of tensors.
        dataset: The base data set, or None if it is made of tensors.
        collate: Turns a list of samples into a batch (data sets only).
        index: (n,) int64 on the CPU, rows of the base that belong to this part; None: all of them.
        classes: Labels must lie in [0, classes); None: not yet known.
    """

    name: str
    tensors: tuple[Tensor, Tensor] | None
    dataset: Any = None
    collate: Callable[[list[Any]], Any] = default_collate
    index: Tensor | None = None
    classes: int | None = None

    @staticmethod
    def of(part: Part, name: str = "rows") -> Rows:
        """Rows of a tuple of tensors, a map-style data set or a DataLoader.

        Raises:
            DataError: Anything else; a DataLoader whose sampler hides which rows it draws; labels that are not
                whole numbers or not one per row.
        """
        if isinstance(part, Rows):
            return replace(part, name=name)
        if isinstance(part, DataLoader):
            return _from_loader(part, name)
        return _from_data(part, name, default_collate)

    def __len__(self) -> int:
        if self.index is not None:
            return len(self.index)
        return len(self.tensors[1]) if self.tensors is not None else len(self.dataset)

    @property
    def base_key(self) -> int:
        """Identity of the base; parts with equal keys number the same rows alike."""
        return id(self.tensors[0]) if self.tensors is not None else id(self.dataset)

    @property
    def row_type(self) -> str | None:
        """Shape and dtype of one input row of tensors; None for other data sets, which may vary."""
        if self.tensors is None:
            return None
        return f"{self.tensors[0].dtype} {tuple(self.tensors[0].shape[1:])}"

    def base_index(self) -> Tensor:
        """(n,) numbers of these rows in the base."""
        return torch.arange(len(self)) if self.index is None else self.index

    def take(self, indices: Tensor, name: str | None = None) -> Rows:
        """The rows at these positions of this part, as a part of its own."""
        return replace(self, index=self.base_index()[indices], name=name or self.name)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels at these positions.

        Args:
            indices: (b,) int64 on the CPU, in [0, len(self)).

        Returns:
            `(inputs (b, ...), labels (b,) int64)`, on the device on which the data lie.

        Raises:
            DataError: The collate function returned something else than a pair of tensors, or a label is out of range.
        """
        if self.index is not None:
            indices = self.index.index_select(0, indices)
        if self.tensors is None:
            return self._collated(indices)
        inputs, labels = self.tensors
        indices = indices.to(labels.device)
        return inputs.index_select(0, indices), labels.index_select(0, indices)

    def part(self) -> Part:
        """The same rows as a tuple of tensors or a DataLoader in their order, for code that knows no `Rows`."""
        if self.tensors is not None:
            return self.fetch(torch.arange(len(self)))
        return DataLoader(Subset(self.dataset, self.base_index().tolist()), batch_size=256, collate_fn=self.collate)

    def labels(self, batch_size: int = 1024) -> Tensor:
        """(n,) labels of all rows, in order; reads every sample of a data set that isn't made of tensors."""
        chunks = torch.arange(len(self)).split(batch_size)
        return torch.cat([self.fetch(chunk)[1] for chunk in chunks])

    def with_classes(self, classes: int) -> Rows:
        """The same rows with their labels checked to lie in [0, classes): at once for tensors, else at each fetch."""
        if self.tensors is not None:
            check_labels(self.labels(), classes, self.name, self.base_index())
        return replace(self, classes=classes)

    def _collated(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        batch = self.collate([self.dataset[i] for i in indices.tolist()])
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not all(isinstance(b, Tensor) for b in batch):
            raise DataError(
                f"{self.name} batches are {_describe(batch)}; each sample must be (inputs, label), or the "
                "DataLoader's collate_fn must return a pair of tensors (inputs, labels)"
            )
        inputs, labels = batch
        labels = _whole(labels, self.name)
        if len(inputs) != len(labels):
            raise DataError(
                f"a {self.name} batch has {len(inputs)} inputs and {len(labels)} labels; give one label per row"
            )
        if self.classes is not None:
            check_labels(labels, self.classes, self.name, indices)
        return inputs, labels


def check_labels(labels: Tensor, classes: int, name: str, index: Tensor) -> None:
    """Raise DataError, naming one bad row, unless all labels lie in [0, classes). Waits for the device."""
    bad = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if len(bad):
        first = int(bad[0])
        raise DataError(
            f"{name} label {int(labels[first])} at row {int(index[first])} lies outside [0, {classes}) "
            f"({len(bad)} such rows); the model has {classes} outputs: relabel, drop the rows or widen it"
        )


def _whole(labels: Tensor, name: str) -> Tensor:
    if labels.ndim != 1 or labels.dtype.is_floating_point or labels.dtype in (torch.bool, torch.complex64):
        raise DataError(
            f"{name} labels have dtype {labels.dtype} and shape {tuple(labels.shape)}; pass one whole number "
            "(class index) per row, e.g. labels.long() or one_hot.argmax(1)"
        )
    return labels.long()


def _from_data(data: Any, name: str, collate: Callable[[list[Any]], Any]) -> Rows:
    if isinstance(data, (tuple, list)):
        return _from_tensors(tuple(data), name)
    if isinstance(data, Subset):
        base = _from_data(data.dataset, name, collate)
        return base.take(torch.as_tensor(list(data.indices), dtype=torch.int64))
    if isinstance(data, TensorDataset) and collate is default_collate:
        return _from_tensors(data.tensors, name)
    mapped = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping)
    if isinstance(data, IterableDataset) or not mapped:
        raise DataError(
            f"{name} is a {type(data).__name__}; pass (inputs, labels) tensors, a map-style Dataset "
            "(__getitem__ and __len__) or a DataLoader over one: rows need numbers"
        )
    return Rows(name, None, data, collate)


def _from_tensors(tensors: tuple[Any, ...], name: str) -> Rows:
    if len(tensors) != 2 or not all(isinstance(t, Tensor) and t.ndim for t in tensors):
        raise DataError(f"{name} is {_describe(tensors)}; pass a pair of tensors (inputs, labels) with rows first")
    inputs, labels = tensors
    if len(inputs) != len(labels):
        raise DataError(f"{name} has {len(inputs)} inputs and {len(labels)} labels; give one label per row")
    if inputs.device != labels.device:
        raise DataError(f"{name} inputs are on {inputs.device} and labels on {labels.device}; move them together")
    return Rows(name, (inputs, _whole(labels, name)))


def _from_loader(loader: DataLoader[Any], name: str) -> Rows:
    if isinstance(loader.dataset, IterableDataset) or type(loader.batch_sampler) not in (BatchSampler, type(None)):
        raise DataError(
            f"{name} is a DataLoader over {type(loader.dataset).__name__} with "
            f"{type(loader.batch_sampler).__name__}, so its rows have no numbers; pass the map-style Dataset"
        )
    if loader.batch_size is None:
        raise DataError(f"{name} is a DataLoader with batch_size=None; pass its Dataset, or set a batch size")
    rows = _from_data(loader.dataset, name, loader.collate_fn)
    sampler = loader.sampler
    if isinstance(sampler, SubsetRandomSampler):
        return rows.take(torch.as_tensor(list(sampler.indices), dtype=torch.int64))
    if type(sampler) not in (RandomSampler, SequentialSampler):
        raise DataError(
            f"{name} is a DataLoader with sampler {type(sampler).__name__}, which hides the rows it draws; "
            "pass torch.utils.data.Subset(dataset, indices) instead"
        )
    return rows


def _describe(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {', '.join(type(v).__name__ for v in value) or 'nothing'}"
    return f"a {type(value).__name__}"
