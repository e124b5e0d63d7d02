"""Nested state as JSON and named tensors, exactly, and back: nothing that reads it ever runs code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amu_fast.errors import DataError

_TAG = "$"


class Packer:
    """Takes tensors out of nested state, each memory once, and leaves JSON behind.

    Kept exactly: None, bool, int, float (NaN and infinities too), str, list, tuple, mappings with any plain keys,
    tensors (dtype, shape, bits; on the CPU afterwards), NumPy arrays and, as Python numbers, NumPy scalars. Tensors
    that are one memory are one again after `unpack`.

    Args:
        prefix: Of the tensors' names.

    >>> packer = Packer()
    >>> structure = packer.pack({"lr": 0.1, "betas": (0.9, 0.99), 3: torch.ones(2)})
    >>> unpack(structure, packer.tensors)
    {'lr': 0.1, 'betas': (0.9, 0.99), 3: tensor([1., 1.])}
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._storages: set[int] = set()
        self._alive: list[Tensor] = []  # an address means nothing once its tensor is gone

    def pack(self, value: Any, path: str = "") -> Any:
        """JSON of `value`; its tensors go to `tensors`.

        Args:
            value: Nested state.
            path: Where it stands, for names and messages.

        Raises:
            DataError: Something that cannot be kept exactly, by its path.
        """
        if value is None or type(value) in (bool, int, str):
            return value
        if isinstance(value, (np.bool_, np.integer, np.floating)) and not isinstance(value, np.longdouble):
            value = value.item()
        if type(value) in (bool, int, float):
            return value if math.isfinite(value) else {_TAG: "float", "value": repr(value)}
        if isinstance(value, Tensor):
            return {_TAG: "tensor", "name": self.add(value, path)}
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            return self._pack_array(value, path)
        if type(value) in (list, tuple, torch.Size):
            items = [self.pack(item, f"{path}.{i}") for i, item in enumerate(value)]
            return items if type(value) is list else {_TAG: "tuple", "items": items}
        if isinstance(value, Mapping):
            if all(type(key) is str and key != _TAG for key in value):
                return {key: self.pack(item, f"{path}.{key}") for key, item in value.items()}
            pairs = [[self.pack(key, f"{path}.key"), self.pack(item, f"{path}.{key}")] for key, item in value.items()]
            return {_TAG: "dict", "items": pairs}
        raise DataError(
            f"a checkpoint cannot hold the {type(value).__name__} at {path or 'its top'}; give it as numbers, strings, "
            "lists, tuples, dicts and tensors (objects have a state_dict)"
        )

    def add(self, tensor: Tensor, path: str) -> str:
        """The name under which `tensor` is kept: its path, or that of the earlier tensor that is the same memory."""
        _check(tensor, path)
        storage = tensor.untyped_storage()
        view = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.is_conj(), tensor.is_neg())
        key = (tensor.device, storage.data_ptr(), tensor.dtype, *view)
        if tensor.numel() and key in self._names:
            return self._names[key]
        name = f"{self.prefix}{path}".strip(".") or "value"
        while name in self.tensors:
            name += "'"
        data = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        own = data.untyped_storage()
        # safetensors takes no two tensors of one storage, and would not write the rest of a storage either
        if own.data_ptr() in self._storages or own.nbytes() != data.nbytes:
            data = data.clone()
        self._storages.add(data.untyped_storage().data_ptr())
        self._names[key] = name
        self._alive.append(tensor)
        self.tensors[name] = data
        return name

    def _pack_array(self, array: np.ndarray[Any, Any], path: str) -> Any:
        little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=True)
        data = torch.from_numpy(little.reshape(-1).view(np.uint8))
        return {_TAG: "array", "dtype": array.dtype.name, "shape": list(array.shape), "name": self.add(data, path)}


def unpack(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `Packer.pack` was given.

    Args:
        structure: JSON.
        tensors: By name.

    Raises:
        DataError: The structure is not one of `Packer`'s, or names a tensor that is not there.
    """
    try:
        return _unpack(structure, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"not a packed state: {type(error).__name__}: {error}; was it written by Packer?") from error


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    tag = value.get(_TAG)
    if tag is None:
        return {key: _unpack(item, tensors) for key, item in value.items()}
    if tag == "tensor":
        return tensors[value["name"]]
    if tag == "tuple":
        return tuple(_unpack(item, tensors) for item in value["items"])
    if tag == "dict":
        return {_unpack(key, tensors): _unpack(item, tensors) for key, item in value["items"]}
    if tag == "float":
        return float(value["value"])
    if tag == "array":
        data = tensors[value["name"]].numpy().view(np.dtype(value["dtype"]).newbyteorder("<"))
        return data.reshape(value["shape"]).astype(np.dtype(value["dtype"]), copy=True)
    raise ValueError(f"unknown tag {tag!r}")


def _check(tensor: Tensor, path: str) -> None:
    if not isinstance(tensor, Tensor):
        raise DataError(f"{path} is a {type(tensor).__name__}; a model's state has tensors only")
    if hasattr(tensor, "full_tensor"):
        raise DataError(
            f"{path} is sharded over ranks; gather it with model_state(model) and optimizer_state(model, optimizer), "
            "called on every rank"
        )
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = "on the meta device" if tensor.is_meta else f"{tensor.layout} {tensor.dtype}"
        raise DataError(f"{path} is {kind}; a checkpoint holds dense tensors with data, convert it first")
