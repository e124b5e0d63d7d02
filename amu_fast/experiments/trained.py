"""What a unit's trainings left, in one safetensors file: written whole, read or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from amu_fast.errors import BackendError, DataError
from amu_fast.report.writing import write_atomic


def write_trained(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors by name, and facts that JSON can hold."""
    whole = {name: value.contiguous().clone() for name, value in tensors.items()}
    write_atomic(path, _safetensors().torch.save(whole, metadata={"facts": json.dumps(facts)}))


def read_trained(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the facts; DataError, naming the file, if it is damaged."""
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 (not a mapping)
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and run again") from error


def weights_in(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with weights/, by the rest of their names."""
    return {n.removeprefix("weights/"): t for n, t in tensors.items() if n.startswith("weights/")}


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise BackendError("units are cached by safetensors; pip install 'amu-fast[demo]'") from error
    return safetensors
