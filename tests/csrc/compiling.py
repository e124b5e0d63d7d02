"""Compiling the sources of csrc/ outside the build: their flags, and a runner that shows what a compiler said."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
TORCH = Path(torch.__file__).parent
#: As in setup.py: the oldest LibTorch whose stable ABI the sources use.
FLAGS = ["-std=c++17", "-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{ROOT / 'csrc'}", f"-I{TORCH / 'include'}"]
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-unknown-pragmas"]


def compiler(command: str) -> list[str]:
    """The words of a compiler's command; skips where it is missing."""
    words = command.split()
    if not shutil.which(words[0]):
        pytest.skip(f"{words[0]} is not on PATH")
    return words


def cxx() -> list[str]:
    """The C++ compiler with the caller's own flags, which is how the sanitizers come in."""
    return [*compiler(os.environ.get("CXX", "c++")), *os.environ.get("CXXFLAGS", "").split()]


def run(command: list[str]) -> str:
    """Everything that the command printed."""
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}{result.stderr}"
    return result.stdout + result.stderr
