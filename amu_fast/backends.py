"""The one door to compiled code: loads the extension and tells which implementation serves which operator.

The seam itself is torch's dispatcher: a compiled kernel registers for (operator, device) and wins there over the
PyTorch reference. Absent: the reference runs, and `table()` records why. Present but broken: `BackendError`.
Importing this module, or any operator, touches neither CUDA nor Triton.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

from amu_fast.errors import BackendError

_PACKAGE = Path(__file__).parent
_RECORD = _PACKAGE / "_build_info.json"
_DEVICES = ("CPU", "CUDA")
_REBUILD = "rebuild it: AMU_FAST_BUILD_EXT=1 pip install --no-build-isolation -e ."

#: Operators announced by `load`, in the order of their definition.
_operators: list[str] = []


@dataclass(frozen=True)
class BuildInfo:
    """What the installation built.

    Attributes:
        library: path of the C++ extension; None where there is none.
        reason: why there is none; empty where there is one.
        torch: version of torch that it was built with; empty if unknown.
        compiler: first line of the compiler's `--version`; empty if unknown.
    """

    library: str | None
    reason: str
    torch: str = ""
    compiler: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table: on `device`, `operator` is served by `implementation`, because of `why`."""

    operator: str
    device: str
    implementation: str
    why: str


def load(operators: Iterable[str], marker: str, path: Path | None = None) -> None:
    """Load the C++ extension, if there is one, over operators that are defined already.

    Args:
        operators: qualified names, `namespace::name`, for `table`.
        marker: qualified name of the operator that the extension defines if it was built for today's schemas.
        path: the library; None: the one beside the package, whose absence is recorded and is no error.

    Raises:
        BackendError: the library does not exist although named, does not load, or was built for other schemas.
    """
    _operators.extend(name for name in operators if name not in _operators)
    path = path or _library()
    if path is None:
        return
    if not path.is_file():
        raise BackendError(f"{path} does not exist; {_REBUILD}")
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise BackendError(f"{path} does not load into torch {torch.__version__}: {error}; {_REBUILD}") from error
    if not _defined(marker):
        raise BackendError(f"{path} was built for other operator schemas (it lacks {marker}); {_REBUILD}")


def build_info() -> BuildInfo:
    """What was built and, if nothing was, why not.

    Raises:
        BackendError: the build record is damaged.
    """
    library = _library()
    if not _RECORD.is_file():
        reason = "" if library else "no build was attempted: the package runs from a source tree"
        return BuildInfo(str(library) if library else None, reason)
    try:
        facts = json.loads(_RECORD.read_text())
        torch_version, compiler = facts.get("torch", ""), facts.get("compiler", "")
        reason = "" if library else facts["reason"] or f"{_PACKAGE / '_C'}* was deleted after it was built"
    except (ValueError, AttributeError, KeyError) as error:
        raise BackendError(f"{_RECORD} is damaged ({error!r}); reinstall the package") from error
    return BuildInfo(str(library) if library else None, reason, torch_version, compiler)


def table() -> tuple[Row, ...]:
    """Which implementation serves which operator on which device, for `amu-fast doctor` and every report.

    Raises:
        BackendError: no operator is defined yet.
    """
    if not _operators:
        raise BackendError("no operator is defined yet; import amu_fast.ops first")
    info = build_info()
    return tuple(_row(name, device, info) for name in _operators for device in _DEVICES)


def _row(operator: str, device: str, info: BuildInfo) -> Row:
    # The dispatcher has no public query; the reference is registered under another key and does not count here.
    if torch._C._dispatch_has_kernel_for_dispatch_key(operator, device):
        built = f"built with torch {info.torch}, {info.compiler}" if info.torch else "no build record"
        return Row(operator, device, "C++", built)
    if device == "CPU" and info.library is None:
        return Row(operator, device, "PyTorch reference", info.reason)
    return Row(operator, device, "PyTorch reference", f"no compiled kernel for {device}")


def _library() -> Path | None:
    candidates = (_PACKAGE / f"_C{suffix}" for suffix in EXTENSION_SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _defined(qualified: str) -> bool:
    namespace, name = qualified.split("::")
    return hasattr(getattr(torch.ops, namespace), name)
