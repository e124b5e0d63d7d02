"""Hashes of models: of files, and of the tensors whatever files they lie in.

tensor_digest = H("amu-tensors/1" ‖ 00 ‖ number of names ‖ for each name in the order of its UTF-8 bytes: name ‖ dtype ‖
dimensions ‖ bytes), H = SHA-256. Every length and number is 8 bytes, little-endian; name, dtype and bytes are preceded
by their length, the dimensions by their number. Buffers are in, tied tensors count under each of their names, and
shards are joined: a module, its state dict and its safetensors files have the same digest.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amu_fast.certificate.records import Hash
from amu_fast.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor, nn

_DOMAIN = b"amu-tensors/1\0"
_INDEX = "model.safetensors.index.json"

SCORES_FILE = "scores.safetensors"
"""Scores of attacks, which no folder's model includes."""


@dataclass(frozen=True, kw_only=True)
class FileHash:
    """A file's name and the SHA-256 of its bytes."""

    name: str
    file_sha256: Hash


@dataclass(frozen=True, kw_only=True)
class ModelHashes:
    """A model's hashes.

    Attributes:
        files: Its safetensors files, by name; empty for a model in memory.
        tensor_digest: See the module's first lines.
        tensors: Number of names.
        elements: Numbers in all tensors, tied ones once under each name.
        ties: Groups of names that share one tensor, as far as the source tells.
    """

    files: tuple[FileHash, ...]
    tensor_digest: Hash
    tensors: int
    elements: int
    ties: tuple[tuple[str, ...], ...]


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes; DataError if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def hash_model(
    model: nn.Module | Mapping[str, Tensor] | str | Path, ties: Mapping[str, str] | None = None
) -> ModelHashes:
    """Hashes of a module, a state dict, a safetensors file or a folder of such files.

    Reads one tensor at a time to the host, so the device waits.

    Args:
        model: See above.
        ties: Names that the files leave out, to the name that holds their tensor. Those that safetensors' `save_model`
            leaves out are known from the file.

    Raises:
        DataError: A file is missing or damaged, a name occurs in two shards, a value is not a dense tensor.
    """
    if isinstance(model, (str, Path)):
        return _hash_files(Path(model), ties)
    state: Mapping[str, Any] = model if isinstance(model, Mapping) else model.state_dict()
    aliases = {name: name for name in state} | _new_names(ties, state)
    digest, elements = _digest(aliases, lambda name: _dense(state, name))
    groups = _shared({name: _dense(state, target) for name, target in aliases.items()})
    return ModelHashes(files=(), tensor_digest=digest, tensors=len(aliases), elements=elements, ties=groups)


def tensor_digest(model: nn.Module | Mapping[str, Tensor] | str | Path, ties: Mapping[str, str] | None = None) -> str:
    """`hash_model(...).tensor_digest`."""
    return hash_model(model, ties).tensor_digest


def model_files(path: Path) -> list[Path]:
    """A file itself, or a folder's safetensors files but for the attacks' scores, by name."""
    if not path.is_dir():
        return [path]
    return sorted(one for one in path.glob("*.safetensors") if one.name != SCORES_FILE)


def _hash_files(path: Path, ties: Mapping[str, str] | None) -> ModelHashes:
    from safetensors import SafetensorError, safe_open

    paths = model_files(path)
    if not paths or not all(one.is_file() for one in paths):
        raise DataError(f"{path} is no safetensors file and no folder of them; give one, or the model itself")
    holders: dict[str, Any] = {}
    known: dict[str, str] = {}
    try:
        with ExitStack() as stack:
            for one in paths:
                file = stack.enter_context(safe_open(one, framework="pt"))
                for name in file.keys():  # noqa: SIM118 (the object is no mapping)
                    if name in holders:
                        raise DataError(
                            f"the tensor {name!r} occurs in two of the files in {path}; remove the stale one"
                        )
                    holders[name] = file
                known |= file.metadata() or {}
            _check_index(path, set(holders))
            # save_model notes a tied name that it leaves out as metadata {left out: kept}.
            left_out = {name: kept for name, kept in known.items() if name not in holders and kept in holders}
            left_out |= _new_names(ties, holders)
            aliases = {name: name for name in holders} | left_out
            digest, elements = _digest(aliases, lambda name: _held(holders, name))
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a sound safetensors file: {error}") from error
    groups = _named_ties(left_out)
    files = tuple(FileHash(name=one.name, file_sha256=file_sha256(one)) for one in paths)
    return ModelHashes(files=files, tensor_digest=digest, tensors=len(aliases), elements=elements, ties=groups)


def _new_names(ties: Mapping[str, str] | None, held: Mapping[str, Any]) -> dict[str, str]:
    """The ties; one under a name that has a tensor of its own would hide that tensor."""
    for name in ties or {}:
        if name in held:
            raise DataError(f"{name!r} has a tensor of its own, so it is no tie; leave it out of `ties`")
    return dict(ties or {})


def _check_index(path: Path, names: set[str]) -> None:
    """Shards that an index names must all be there, and no other tensors beside them."""
    index = path / _INDEX
    if not path.is_dir() or not index.is_file():
        return
    try:
        listed = set(json.loads(index.read_bytes())["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{index} is not an index of shards: {error}") from error
    if listed != names:
        raise DataError(
            f"{index} and the files beside it disagree about {sorted(listed ^ names)[:3]}; a shard is missing"
        )


def _digest(aliases: Mapping[str, str], tensor_of: Callable[[str], Tensor]) -> tuple[str, int]:
    digest = hashlib.sha256(_DOMAIN + _number(len(aliases)))
    elements = 0
    for name in sorted(aliases, key=str.encode):
        tensor = tensor_of(aliases[name])
        elements += tensor.numel()
        for text in (name, str(tensor.dtype).removeprefix("torch.")):
            digest.update(_number(len(text.encode())) + text.encode())
        digest.update(_number(tensor.ndim) + b"".join(map(_number, tensor.shape)))
        data = _little_endian(tensor)
        digest.update(_number(len(data)))
        digest.update(data)
    return digest.hexdigest(), elements


def _number(value: int) -> bytes:
    return struct.pack("<Q", value)


def _little_endian(tensor: Tensor) -> memoryview:
    import torch

    tensor = tensor.detach().cpu().contiguous()
    raw = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)
    data = raw.view(torch.uint8)
    if sys.byteorder == "big":
        data = data.reshape(-1, raw.element_size()).flip(1).reshape(-1)
    return data.numpy().data


def _dense(state: Mapping[str, Any], name: str) -> Tensor:
    import torch

    value = state.get(name)
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
        kind = (
            type(value).__name__ if not isinstance(value, torch.Tensor) else f"{value.layout} tensor on {value.device}"
        )
        raise DataError(
            f"{name!r} is a {kind}; only dense tensors with data can be hashed, so convert it or leave it out"
        )
    return value.resolve_conj().resolve_neg()


def _held(holders: Mapping[str, Any], name: str) -> Tensor:
    if name not in holders:
        raise DataError(f"a tie points to {name!r}, which no file holds; the names are like {sorted(holders)[:3]}")
    return holders[name].get_tensor(name)


def _shared(state: Mapping[str, Tensor]) -> tuple[tuple[str, ...], ...]:
    """Names by storage, offset, shape and strides."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in state.items():
        if tensor.numel():
            key = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
            groups.setdefault((str(tensor.device), str(tensor.dtype), *key), []).append(name)
    return tuple(sorted(tuple(sorted(names)) for names in groups.values() if len(names) > 1))


def _named_ties(left_out: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    groups: dict[str, list[str]] = {}
    for name, kept in left_out.items():
        groups.setdefault(kept, [kept]).append(name)
    return tuple(sorted(tuple(sorted(names)) for names in groups.values()))
