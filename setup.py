"""Build of the optional C++ and CUDA extensions; everything declarative is in pyproject.toml.

AMU_FAST_BUILD_EXT=auto      build them where torch and a compiler are found, else install without and record why
AMU_FAST_BUILD_EXT=1         build them or fail; torch without CUDA or a machine without its toolkit is no failure
AMU_FAST_BUILD_EXT=0         do not build them: a pure Python wheel
AMU_FAST_CUDA_ARCHS="80;90"  compute capabilities that the CUDA library is compiled for, two digits each
AMU_FAST_NO_CLONES=1         one x86-64 copy of each function, as sanitizers need it
"""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
RECORD = "_build_info.json"
MODE = os.environ.get("AMU_FAST_BUILD_EXT", "auto")
if MODE not in ("auto", "1", "0"):
    sys.exit(f"AMU_FAST_BUILD_EXT must be auto, 1 or 0, got {MODE!r}")
ARCHS = os.environ.get("AMU_FAST_CUDA_ARCHS", "80;90").split(";")
if not all(re.fullmatch(r"\d\d\d?a?", arch) for arch in ARCHS):
    sys.exit(f'AMU_FAST_CUDA_ARCHS must be like "80;90", got {";".join(ARCHS)!r}')

# The oldest LibTorch whose stable ABI the extensions use: 2.10. The binaries run on every later one.
TORCH_TARGET = "0x020a000000000000"
# No code reads errno; without this flag square roots are calls and stay scalar.
FLAGS = ["-O3", "-g0", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]
# The last architecture's PTX serves later devices. FMA contraction is wanted, other fast math is not.
NVCC_FLAGS = [
    "-O3",
    "-std=c++17",
    "-Xcompiler=-fvisibility=hidden",
    *(f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHS),
    f"-gencode=arch=compute_{ARCHS[-1]},code=compute_{ARCHS[-1]}",
]


def write_record(command, **facts):
    """Write the build record beside the package that `command` fills: the source tree if editable."""
    editable = getattr(command, "editable_mode", False) or getattr(command, "inplace", False)
    folder = ROOT / "amu_fast" if editable else Path(command.build_lib) / "amu_fast"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(json.dumps(facts, indent=1) + "\n")


class BuildPy(build_py):
    """Records the reason when no extension is attempted."""

    def run(self):
        super().run()
        if not self.distribution.ext_modules:
            write_record(self, built=False, mode=MODE, reason=REASON, cuda={"built": False, "reason": REASON})


def first_line(command, *, last=False):
    """First (or last) line of the compiler's --version, or the reason why it does not run."""
    try:
        lines = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()
        return lines[-1 if last else 0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        return f"{command[0]} (does not run: {error})"


def sources(*patterns):
    """Files below csrc/ that match, relative to the root as setuptools wants them."""
    return sorted({str(path.relative_to(ROOT)) for pattern in patterns for path in (ROOT / "csrc").glob(pattern)})


def why_no_cuda(torch, cuda_home):
    """Why the CUDA library is not built; empty where it is. Whether a GPU is present plays no part."""
    if not torch.version.cuda:
        return f"torch {torch.__version__} has no CUDA"
    if not cuda_home:
        return f"no CUDA toolkit was found for torch {torch.__version__}; set CUDA_HOME"
    if not any(path for folder in ("lib64", "lib") for path in (Path(cuda_home) / folder).glob("libcudart.so*")):
        return f"CUDA_HOME={cuda_home} has no libcudart.so in lib64 or lib; set it to the toolkit's own folder"
    return ""


def build_command(base, torch, cuda_home, no_cuda):
    """The build_ext command: torch's, which ignores `Extension(optional=True)`, with every outcome recorded."""

    class BuildExt(base):
        """In mode auto a library that fails is left out and its reason recorded; the other is built all the same."""

        def run(self):
            self.failures = {}
            facts = {"mode": MODE, "torch": torch.__version__, "schemas": MARKER}
            facts["compiler"] = first_line(os.environ.get("CXX", "c++").split())
            try:
                super().run()
            except Exception as error:
                if MODE == "1":
                    raise
                self.failures = dict.fromkeys(("amu_fast._C", "amu_fast._C_cuda"), error) | self.failures
            reason = self.reason("amu_fast._C", facts["compiler"])
            cuda = {"built": False, "reason": no_cuda}
            if not no_cuda:
                nvcc = first_line([str(Path(cuda_home) / "bin" / "nvcc")], last=True)
                reason_cuda = self.reason("amu_fast._C_cuda", nvcc)
                cuda = {"built": not reason_cuda, "reason": reason_cuda, "archs": ARCHS, "compiler": nvcc}
            write_record(self, built=not reason, reason=reason, **facts, cuda=cuda)

        def build_extension(self, ext):
            try:
                super().build_extension(ext)
            except Exception as error:
                if MODE == "1":
                    raise
                self.failures[ext.name] = error

        def reason(self, name, compiler):
            error = self.failures.get(name)
            if error is None:
                return ""
            reason = f"{name} did not build with {compiler}: {type(error).__name__}: {error}"
            print(f"amu_fast: installing without it: {reason}", file=sys.stderr)
            return reason

    return BuildExt


def extension():
    """Return (extension modules, command classes, reason why there are none)."""
    if MODE == "0":
        return [], {}, "AMU_FAST_BUILD_EXT=0"
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        reason = f"torch cannot be imported while building ({error}); use pip install --no-build-isolation"
        if MODE == "1":
            sys.exit(f"AMU_FAST_BUILD_EXT=1, but {reason}")
        print(f"amu_fast: building without the C++ extension: {reason}", file=sys.stderr)
        return [], {}, reason

    macros = [("TORCH_TARGET_VERSION", TORCH_TARGET), ("AMU_FAST_SCHEMAS", MARKER)]
    if os.environ.get("AMU_FAST_NO_CLONES") == "1":
        macros.append(("AMU_FAST_NO_CLONES", None))
    shared = {
        "include_dirs": [str(ROOT / "csrc")],
        "depends": ["amu_fast/ops/schemas.py", *sources("**/*.h", "**/*.cuh")],
        "py_limited_api": True,
        "optional": MODE == "auto",
    }
    flags = FLAGS if os.name == "posix" else []
    modules = [
        cpp_extension.CppExtension(
            "amu_fast._C",
            sources("common/**/*.cpp", "cpu/**/*.cpp"),
            define_macros=macros,
            extra_compile_args=flags,
            **shared,
        )
    ]
    no_cuda = why_no_cuda(torch, cpp_extension.CUDA_HOME)
    if not no_cuda:
        modules.append(
            cpp_extension.CUDAExtension(
                "amu_fast._C_cuda",
                sources("common/**/*.cpp", "cuda/*.cpp", "cuda/*.cu"),
                define_macros=[*macros, ("USE_CUDA", None)],
                extra_compile_args={"cxx": flags, "nvcc": NVCC_FLAGS},
                **shared,
            )
        )
    command = build_command(cpp_extension.BuildExtension, torch, cpp_extension.CUDA_HOME, no_cuda)
    return modules, {"build_ext": command}, ""


MARKER = runpy.run_path(str(ROOT / "amu_fast" / "ops" / "schemas.py"))["fingerprint"]()
MODULES, COMMANDS, REASON = extension()

setup(
    packages=[
        *find_packages(include=["amu_fast", "amu_fast.*"]),
        *(f"amu_fast.{name}" for name in ("kernels", "bench")),
        *(f"amu_fast.{name}" for name in find_packages(include=["kernels.*", "bench.*"])),
    ],
    ext_modules=MODULES,
    cmdclass={"build_py": BuildPy, **COMMANDS},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if MODULES else {},
)
