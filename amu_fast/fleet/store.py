"""One safetensors file per shadow model, whole or absent, checked when it is read; nothing in it is ever executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from amu_fast.errors import DataError
from amu_fast.report.writing import write_atomic

_RECORD = "amu_fast"  # the only metadata key: with two, safetensors writes them in a random order


def write(path: Path, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors of the model called `key`, atomically, with the key and the digest of their bytes."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    record = json.dumps({"key": key, "sha256": digest(plain)}, sort_keys=True)
    write_atomic(path, save(plain, metadata={_RECORD: record}))


def read(path: Path, key: str) -> dict[str, Tensor]:
    """The tensors of a file, once they are known to be those written under `key`.

    Raises:
        DataError: the file is cut off, changed, or another model's.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(_RECORD, "{}"))
            # copies: tensors that stay mapped to the file would change with it
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no __iter__)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it and its model is made again") from error
    if record.get("key") != key:
        raise DataError(f"{path} holds model {record.get('key')} and not {key}; it was renamed: delete it")
    if record.get("sha256") != digest(tensors):
        raise DataError(f"{path} is damaged: its bytes are not those written; delete it and its model is made again")
    return tensors


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes, in the order of the names; the device waits."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def model_digest(model: nn.Module) -> str:
    """SHA-256 of a model's printed architecture and of its weights and buffers."""
    return hashlib.sha256(f"{model!r} {digest(model.state_dict())}".encode()).hexdigest()
