"""The CUDA sources compiled for the CPU: launchers and kernels as they are, every device thread a fibre."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from csrc.compiling import FLAGS, ROOT, TORCH, WARNINGS, cxx, run

from amu_fast.ops.schemas import SCHEMAS

EMULATED = Path(__file__).parent / "emulated"


class Emulator:
    """The library of emulated launchers; `device` sets what they believe to run on."""

    H200 = (4, 232448, True)
    A100 = (2, 166912, False)
    SMALL = (2, 101376, False)

    def __init__(self, path: Path) -> None:
        torch.ops.load_library(path)
        self.library = ctypes.CDLL(str(path))
        self.ops = torch.ops.amu_fast_emulated

    def device(self, multiprocessors: int, shared_limit: int, clusters: bool) -> None:
        arguments = ctypes.c_int64(multiprocessors), ctypes.c_int64(shared_limit), ctypes.c_bool(clusters)
        self.library.emulate_device(*arguments)

    def sizes(self, function: str, count: int, *arguments: int) -> list[int]:
        """`count` integers that a size calculator returns."""
        out = (ctypes.c_int64 * count)()
        getattr(self.library, function)(*(ctypes.c_int64(a) for a in arguments), out)
        return list(out)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emulated")
    cuda, common = (ROOT / "csrc" / "cuda").glob("*.cu"), (ROOT / "csrc" / "common").rglob("*.cpp")
    sources = [*EMULATED.glob("*.cpp"), *cuda, *common]
    objects = [folder / f"{source.stem}{source.suffix}.o" for source in sources]
    # Its own folder first: its device.cuh and launch.h stand in for those of csrc/cuda.
    # Tensors are hidden by their own declaration; here what holds them is not, since the tests call into the library.
    flags = [f"-I{EMULATED}", *FLAGS, *WARNINGS, "-Wno-attributes", "-O1", "-fPIC", "-x", "c++", "-c"]
    flags += [f'-DAMU_FAST_{name.upper()}="{SCHEMAS[name]}"' for name in ("auditor_step", "auditor_rows")]
    for source, target in zip(sources, objects, strict=True):
        run([*cxx(), *flags, str(source), "-o", str(target)])
    library = folder / "emulated.so"
    link = [f"-L{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10", "-o", str(library)]
    run([*cxx(), "-shared", *map(str, objects), *link])
    return Emulator(library)
