"""What a launcher launches, compiled for a GPU that is not there, and what the binary says about itself."""

from __future__ import annotations

import contextlib
import importlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

configurations = importlib.import_module("amu_fast.kernels.configurations")

#: Module -> the kernels that it launches.
KERNELS = {
    "glm_curvature": ("_sums", "_finish"),
    "glm_hvp": ("_products",),
    "glm_hvp_multi": ("_grouped", "_weighted_product", "_transposed_product"),
    "glm_mixed": ("_mixed",),
    "margins": ("_margins",),
    "partials": ("_add_damping",),
    "score_moments": ("_moments", "_gradient"),
    "vectors": ("_dot", "_finish", "_direction", "_direction_state", "_update", "_series"),
}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
#: Shared memory of one program, in bytes.
SHARED = {80: 163 << 10, 90: 227 << 10}
_POINTERS = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Launch:
    """One launch: a kernel and the arguments it was given, by name."""

    kernel: triton.JITFunction
    arguments: dict[str, object]
    options: dict[str, object]

    @property
    def name(self):
        return self.kernel.fn.__name__.lstrip("_")

    @property
    def key(self):
        """What the binary depends on."""
        return (self.kernel.cache_key, str(_signature(self)), str(self.options))


def arguments(name, n, d, dtype, *, k=4, batch=(), padded=False):
    """Arguments of an operator with tensors that have shapes and no memory; `n d` entries of a vector."""

    def made(*shape, dtype=torch.float32):
        return torch.empty((*batch, *shape), dtype=dtype, device="meta")

    width = -(-d // 16) * 16 if padded else d
    x, c, v = made(n, width, dtype=dtype)[..., :d], made(n), made(d + 1)
    wide = made(d + 1, k)
    scalar, flag = made(dtype=torch.float64), made(dtype=torch.bool)
    z, label = made(n, d, dtype=dtype), made(n, dtype=torch.int64)
    return {
        "glm_hvp": (x, c, v, 0.1, True),
        "glm_hvp_multi": (x, made(n, k), wide, 0.1, True),
        "glm_gradient_curvature": (x, c, c, v, 0, 0.1, 1.0, True),
        "glm_mixed_vjp": (x, c, c, v, v, 0, 1.0, True),
        "multi_dot": (c, c),
        "_cg_direction": (c, c, c, scalar, flag, flag),
        "_cg_update": (c, c, scalar, flag, c, c),
        "_neumann_step": (c, c, scalar, flag, c, c),
        "score_moments": (z, label),
        "score_moments_backward": (z, label, c, c, label, c, c, c, c),
    }[name]


@contextlib.contextmanager
def recorded(monkeypatch, capability):
    """Record launches for a device of `capability` instead of launching."""
    launches = []

    class Recorder:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            assert all(0 < size < 2**31 for size in grid)
            return self.record

        def record(self, *args, **kwargs):
            names = self.kernel.arg_names
            options = {name: kwargs.pop(name) for name in ("num_warps", "enable_fp_fusion")}
            launches.append(Launch(self.kernel, dict(zip(names, args, strict=False)) | kwargs, options))

    with monkeypatch.context() as patch:
        patch.setattr("amu_fast.kernels.configurations.capability_of", lambda _: capability)
        for family, names in KERNELS.items():
            module = importlib.import_module(f"amu_fast.kernels.{family}")
            for name in names:
                patch.setattr(module, name, Recorder(getattr(module, name)))
        yield launches


@dataclass(frozen=True)
class Binary:
    """A compiled kernel: registers, bytes of stack (spills) and shared memory, 128-bit loads, intermediate code."""

    registers: int
    stack: int
    shared: int
    wide_loads: int
    ttir: str


def _signature(launch, aligned=True):
    """As the launch would: arguments equal to 1 are constants, multiples of 16 are known to be such."""
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[parameter.name], constants[(index,)] = "constexpr", value
            continue
        signature[parameter.name] = _type(value)
        multiple = value % 16 == 0 if isinstance(value, int) else isinstance(value, torch.Tensor)
        if multiple and aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def compiled(launch, capability, *, aligned=True, folder):
    """Compile a launch and read its binary."""
    source = ASTSource(launch.kernel, *_signature(launch, aligned))
    result = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    cubin = folder / f"{launch.name}.cubin"
    cubin.write_bytes(result.asm["cubin"])
    usage = _dump("-res-usage", cubin)
    loads = re.findall(r"\b(?:LDG|LDGSTS)\.E\S*\.128", _dump("-sass", cubin))
    registers, stack = (int(re.search(rf"{word}:(\d+)", usage)[1]) for word in ("REG", "STACK"))
    return Binary(registers, stack, result.metadata.shared, len(loads), result.asm["ttir"])


def _type(value):
    if isinstance(value, torch.Tensor):
        return _POINTERS[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _dump(option, cubin):
    return subprocess.run([CUOBJDUMP, option, cubin], capture_output=True, text=True, check=True).stdout


def narrow_offsets(ttir):
    """Products of row numbers that could wrap at 2^31 elements: a row times a stride is a tile of 64-bit products."""
    return [line for line in ttir.splitlines() if re.search(r"arith\.muli .*: tensor<.*xi32>", line)]
