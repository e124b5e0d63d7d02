"""The one door to compiled code: loads the extension and tells which implementation serves which operator.

The seam itself is torch's dispatcher: a compiled kernel registers for (operator, device) and wins there over the
PyTorch reference. On CUDA the C++ library comes first, then Triton, imported at an operator's first call; its kernels
serve float32 and bfloat16, float64 runs the reference. Absent: the reference runs, and `table()` records why. Present
but broken: `BackendError`. Importing this module, or any operator, touches neither CUDA nor Triton.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch

from amu_fast.errors import BackendError

_PACKAGE = Path(__file__).parent
_RECORD = _PACKAGE / "_build_info.json"
_DEVICES = ("CPU", "CUDA")
_REBUILD = "rebuild it: AMU_FAST_BUILD_EXT=1 pip install --no-build-isolation -e ."

#: Operator -> module of `amu_fast.kernels` and its launcher.
_LAUNCHERS: dict[str, tuple[str, str]] = {
    "amu_fast::glm_hvp": ("glm_hvp", "glm_hvp"),
    "amu_fast::glm_hvp_multi": ("glm_hvp_multi", "glm_hvp_multi"),
    "amu_fast::glm_gradient_curvature": ("glm_curvature", "glm_gradient_curvature"),
    "amu_fast::glm_mixed_vjp": ("glm_mixed", "glm_mixed_vjp"),
    "amu_fast::multi_dot": ("vectors", "multi_dot"),
    "amu_fast::_cg_direction": ("vectors", "cg_direction"),
    "amu_fast::_cg_update": ("vectors", "cg_update"),
    "amu_fast::_neumann_step": ("vectors", "neumann_step"),
    "amu_fast::score_moments": ("score_moments", "score_moments"),
    "amu_fast::score_moments_backward": ("score_moments", "score_moments_backward"),
}
_TRITON_DTYPES = (torch.float32, torch.bfloat16)
# Beyond so many columns Triton reads rows twice; a private operator of the CUDA library serves them where it is there.
_WIDE_COLUMNS = 4096
_WIDE = {"amu_fast::glm_hvp": "amu_fast::_glm_hvp_large"}

#: Operators announced by `load`, in the order of their definition.
_operators: list[str] = []
#: Operator -> its PyTorch reference, announced where it is defined.
references: dict[str, Callable[..., Any]] = {}
#: Operators that Triton serves and their registrations, which last as long as these objects.
_served_by_triton: dict[str, torch.library.Library] = {}


@dataclass(frozen=True)
class BuildInfo:
    """What the installation built.

    Attributes:
        library: path of the C++ extension; None where there is none.
        reason: why there is none; empty where there is one.
        torch: version of torch that it was built with; empty if unknown.
        compiler: first line of the compiler's `--version`; empty if unknown.
        cuda_library: path of the CUDA library; None where there is none.
        cuda_reason: why there is none; empty where there is one.
    """

    library: str | None
    reason: str
    torch: str = ""
    compiler: str = ""
    cuda_library: str | None = None
    cuda_reason: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table: on `device`, `operator` is served by `implementation`, because of `why`."""

    operator: str
    device: str
    implementation: str
    why: str


def load(operators: Iterable[str], marker: str, path: Path | None = None) -> None:
    """Load the compiled libraries that are there over operators that are defined already, and register Triton's.

    Args:
        operators: qualified names, `namespace::name`, for `table`.
        marker: qualified name of the operator that the extension defines if it was built for today's schemas; the
            CUDA library's begins with `cuda_`.
        path: the extension; None: the one beside the package, whose absence is recorded and is no error.

    Raises:
        BackendError: a library does not exist although named, does not load, or was built for other schemas.
    """
    _operators.extend(name for name in operators if name not in _operators)
    path = path or _library("_C")
    if path is not None:
        _load(path, marker)
    cuda = _library("_C_cuda")
    if cuda is not None and torch.version.cuda:
        namespace, name = marker.split("::")
        _load(cuda, f"{namespace}::cuda_{name}")
    _register_launchers()


def _load(path: Path, marker: str) -> None:
    if not path.is_file():
        raise BackendError(f"{path} does not exist; {_REBUILD}")
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise BackendError(f"{path} does not load into torch {torch.__version__}: {error}; {_REBUILD}") from error
    if not _defined(marker):
        raise BackendError(f"{path} was built for other operator schemas (it lacks {marker}); {_REBUILD}")


def _register_launchers() -> None:
    """Register Triton's launchers for every operator that has one and no kernel of the CUDA library."""
    if _why_no_triton():
        return
    for operator in _operators:
        if operator in _LAUNCHERS and operator in references and not _has_kernel(operator, "CUDA"):
            library = torch.library.Library(operator.split("::")[0], "IMPL")
            library.impl(operator.split("::")[1], _launcher(operator), "CUDA")
            _served_by_triton[operator] = library


def _launcher(operator: str) -> Callable[..., Any]:
    """The function that serves `operator` on CUDA: by the dtype of its first argument, on that argument's device."""
    wide = _WIDE.get(operator)

    def serve(*args: Any) -> Any:
        first = args[0]
        if wide and first.shape[-1] > _WIDE_COLUMNS and _defined(wide):
            return _operator(wide)(*args)
        if first.dtype not in _TRITON_DTYPES:
            return references[operator](*args)
        with torch.cuda.device_of(first):
            return _imported_launcher(operator)(*args)

    return serve


@functools.cache
def _imported_launcher(operator: str) -> Callable[..., Any]:
    module, function = _LAUNCHERS[operator]
    try:
        return getattr(importlib.import_module(f"amu_fast.kernels.{module}"), function)
    except Exception as error:
        raise BackendError(
            f"the Triton kernel of {operator} cannot be imported ({type(error).__name__}: {error}); reinstall triton "
            f"in the version that torch {torch.__version__} requires, or uninstall it to run the reference"
        ) from error


def build_info() -> BuildInfo:
    """What was built and, if nothing was, why not.

    Raises:
        BackendError: the build record is damaged.
    """
    library, cuda = _library("_C"), _library("_C_cuda")
    facts: dict[str, Any] = {"reason": "no build was attempted: the package runs from a source tree"}
    try:
        if _RECORD.is_file():
            facts = json.loads(_RECORD.read_text())
        reason, cuda_reason = facts["reason"], facts.get("cuda", facts)["reason"]
        versions = facts.get("torch", ""), facts.get("compiler", "")
        return BuildInfo(*_found(library, "_C", reason), *versions, *_found(cuda, "_C_cuda", cuda_reason))
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise BackendError(f"{_RECORD} is damaged ({error!r}); reinstall the package") from error


def _found(library: Path | None, name: str, reason: str) -> tuple[str | None, str]:
    """The library's path, or why there is none."""
    return (str(library), "") if library else (None, reason or f"{_PACKAGE / name}* was deleted after it was built")


def table() -> tuple[Row, ...]:
    """Which implementation serves which operator on which device, for `amu-fast doctor` and every report.

    Raises:
        BackendError: no operator is defined yet.
    """
    if not _operators:
        raise BackendError("no operator is defined yet; import amu_fast.ops first")
    info = build_info()
    rows = {"CPU": _cpu_row, "CUDA": _cuda_row}
    return tuple(rows[device](name, info) for name in _operators for device in _DEVICES)


def _cpu_row(operator: str, info: BuildInfo) -> Row:
    if _has_kernel(operator, "CPU"):
        return Row(operator, "CPU", "C++", _built(info))
    return Row(operator, "CPU", "PyTorch reference", info.reason or "no compiled kernel for CPU")


def _cuda_row(operator: str, info: BuildInfo) -> Row:
    if operator in _served_by_triton:
        why = f"triton {metadata.version('triton')}; float64 runs the PyTorch reference"
        if operator in _WIDE and _defined(_WIDE[operator]):
            why += f"; more than {_WIDE_COLUMNS} columns run CUDA C++ in every dtype"
        return Row(operator, "CUDA", "Triton", why)
    if _has_kernel(operator, "CUDA"):
        return Row(operator, "CUDA", "CUDA C++", _built(info))
    why = _why_no_triton() if operator in _LAUNCHERS or not torch.version.cuda else info.cuda_reason
    return Row(operator, "CUDA", "PyTorch reference", why or "no compiled kernel for CUDA")


def _built(info: BuildInfo) -> str:
    return f"built with torch {info.torch}, {info.compiler}" if info.torch else "no build record"


def _why_no_triton() -> str:
    """Why no Triton kernel serves CUDA here; empty if one may. Triton itself is not imported."""
    if not torch.version.cuda:
        return f"torch {torch.__version__} has no CUDA"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; pip install amu-fast[triton]"
    return ""


def _has_kernel(operator: str, device: str) -> bool:
    # The dispatcher has no public query; the reference is registered under another key and does not count here.
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operator, device))


def _library(name: str) -> Path | None:
    candidates = (_PACKAGE / f"{name}{suffix}" for suffix in EXTENSION_SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _defined(qualified: str) -> bool:
    return _operator(qualified) is not None


def _operator(qualified: str) -> Any:
    namespace, name = qualified.split("::")
    return getattr(getattr(torch.ops, namespace), name, None)
