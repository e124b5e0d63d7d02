"""Build of the optional C++ extension; everything declarative is in pyproject.toml.

AMU_FAST_BUILD_EXT=auto   build it where torch and a compiler are found, else install without it and record why
AMU_FAST_BUILD_EXT=1      build it or fail
AMU_FAST_BUILD_EXT=0      do not build it: a pure Python wheel
"""

from __future__ import annotations

import json
import os
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

# The oldest LibTorch whose stable ABI the extension uses: 2.10. The binary runs on every later one.
TORCH_TARGET = "0x020a000000000000"
# No code reads errno; without this flag square roots are calls and stay scalar.
FLAGS = ["-O3", "-g0", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]


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
            write_record(self, built=False, mode=MODE, reason=REASON)


def compiler_version():
    """First line of the compiler's --version, or the reason why it does not run."""
    command = [*os.environ.get("CXX", "c++").split(), "--version"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        return f"{command[0]} (does not run: {error})"


def extension():
    """Return (extension modules, command classes, reason why there are none)."""
    if MODE == "0":
        return [], {}, "AMU_FAST_BUILD_EXT=0"
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        reason = f"torch cannot be imported while building ({error}); use pip install --no-build-isolation"
        if MODE == "1":
            sys.exit(f"AMU_FAST_BUILD_EXT=1, but {reason}")
        print(f"amu_fast: building without the C++ extension: {reason}", file=sys.stderr)
        return [], {}, reason

    class BuildExt(BuildExtension):
        """`BuildExtension` ignores `Extension(optional=True)`; in mode auto a failed build is recorded instead."""

        def run(self):
            facts = {"mode": MODE, "torch": torch.__version__, "compiler": compiler_version(), "schemas": MARKER}
            try:
                super().run()
            except Exception as error:
                if MODE == "1":
                    raise
                reason = f"the C++ extension did not build with {facts['compiler']}: {type(error).__name__}: {error}"
                print(f"amu_fast: installing without it: {reason}", file=sys.stderr)
                write_record(self, built=False, reason=reason, **facts)
            else:
                write_record(self, built=True, reason="", **facts)

    module = CppExtension(
        "amu_fast._C",
        sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.cpp")),
        include_dirs=[str(ROOT / "csrc")],
        define_macros=[("TORCH_TARGET_VERSION", TORCH_TARGET), ("AMU_FAST_SCHEMAS", MARKER)],
        extra_compile_args=FLAGS if os.name == "posix" else [],
        depends=["amu_fast/ops/schemas.py", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.h"))],
        py_limited_api=True,
        optional=MODE == "auto",
    )
    return [module], {"build_ext": BuildExt}, ""


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
