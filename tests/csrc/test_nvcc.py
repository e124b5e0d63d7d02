"""Every CUDA source compiles for both targets, without spills, within the registers that its block size allows."""

from __future__ import annotations

import re
import sysconfig

import pytest
from csrc.compiling import FLAGS, ROOT, WARNINGS, compiler, cxx, run

SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
#: Of one thread, by kernel: 65536 over the threads of the blocks that are to share a multiprocessor.
REGISTERS = {
    "auditor_solve": 168,  # three blocks of 128 threads, or one of 256 that fills the shared memory
    "auditor_lists": 64,
    "auditor_starts": 64,
    "auditor_rows_kernel": 64,
    "hvp_cluster": 128,  # one block of 512 threads
    "hvp_chunk_rows": 64,
    "hvp_chunk_columns": 64,
    "hvp_finish": 64,
}
ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<arch>\d+)'.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")


def kernel(mangled: str) -> str:
    """The name that a mangled one contains, `<length><name>` in the Itanium scheme."""
    return next(name for name in REGISTERS if f"{len(name)}{name}" in mangled)


@pytest.mark.parametrize("arch", ["80", "90"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_compiles_without_spills(source, arch, tmp_path):
    nvcc = [*compiler("nvcc"), "-O3", "--expt-relaxed-constexpr", "-DUSE_CUDA", "-Xptxas=-v"]
    target = [f"-gencode=arch=compute_{arch},code=sm_{arch}", "-cubin", "-o", str(tmp_path / "out.cubin")]
    output = run([*nvcc, *FLAGS, *target, str(source)])
    entries = [match.groupdict() for match in ENTRY.finditer(output)]
    assert entries, output
    assert len(entries) == output.count("Compiling entry function")
    # Of the kernels and of every function that they call.
    assert set(SPILLS.findall(output)) == {("0", "0")}, output
    for entry in entries:
        assert entry["arch"] == arch
        assert int(entry["registers"]) <= REGISTERS[kernel(entry["name"])], entry["name"]
        # Shared memory is dynamic: the launchers' plans account for all of it.
        assert "smem" not in entry["rest"], entry["name"]
    assert "warning" not in output.lower(), output


def test_registration_compiles():
    """The part without device code; its headers need no CUDA toolkit."""
    defines = ["-DUSE_CUDA", "-DAMU_FAST_SCHEMAS=schemas_0", f"-I{sysconfig.get_path('include')}"]
    for source in sorted((ROOT / "csrc" / "cuda").glob("*.cpp")):
        run([*cxx(), "-fvisibility=hidden", "-fsyntax-only", *FLAGS, *WARNINGS, *defines, str(source)])
