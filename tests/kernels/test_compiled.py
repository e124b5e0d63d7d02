"""Every kernel and configuration, compiled for sm_80 and sm_90 without a GPU: what the binaries need and how they load.

No spills, registers and shared memory that let as many programs reside on a multiprocessor as the table counts on,
128-bit loads of x, rows times strides in 64 bits.
"""

from __future__ import annotations

import kernel_cases
import pytest
import torch

kernel_cases.require(interpreter=False)

import offline
import planted
from offline import Launch, arguments, compiled, configurations, recorded

MULTIPROCESSORS = {80: 108, 90: 132}
REGISTERS = 64 << 10
CAPABILITIES = tuple(MULTIPROCESSORS)
DTYPES = (torch.float32, torch.bfloat16)
GLM = ("glm_hvp", "glm_hvp_multi", "glm_gradient_curvature", "glm_mixed_vjp")
WIDTHS = (16, 64, 256, 1024, 4096, 8192)


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    """Compile a launch once, however many tests look at it."""
    folder, made = tmp_path_factory.mktemp("cubin"), {}

    def build(launch, capability, *, aligned=True):
        key = (launch.key, capability, aligned)
        if key not in made:
            made[key] = compiled(launch, capability, aligned=aligned, folder=folder)
        return made[key]

    return build


def launches(name, monkeypatch, capability, n=200_003, d=64, dtype=torch.float32, **shape):
    with recorded(monkeypatch, capability) as found:
        kernel_cases.launcher(name)(*arguments(name, n, d, dtype, **shape))
    assert found
    return found


def assert_sound(launch, made, capability):
    warps = launch.options["num_warps"]
    allocated = -(-made.registers // 8) * 8 * 32 * warps
    assert made.stack == 0, f"{launch.name} spills {made.stack} bytes"
    assert made.registers <= 255
    assert allocated * resident(launch, capability) <= REGISTERS, f"{launch.name} needs {made.registers} registers"
    assert made.shared * resident(launch, capability) <= offline.SHARED[capability]
    assert made.wide_loads >= wide_loads(launch), f"{launch.name} has {made.wide_loads} 128-bit loads"
    assert offline.narrow_offsets(made.ttir) == []
    assert launch.options["enable_fp_fusion"] is True


def resident(launch, capability):
    """Programs per multiprocessor that the table counts on; one where it counts none."""
    shape = launch.arguments
    kernel = {"products": "glm_hvp", "sums": "glm_gradient_curvature", "grouped": "glm_hvp_multi"}.get(launch.name)
    if kernel is None:
        return 1
    dtype = str(shape["x"].dtype).removeprefix("torch.")
    row = configurations.look_up(kernel, capability, dtype, shape["WIDTH"])
    assert (row.rows, row.warps) == (shape["ROWS"], launch.options["num_warps"])
    return row.programs // MULTIPROCESSORS[capability]


def wide_loads(launch):
    """128-bit loads of one tile of the launch's largest operand, per thread."""
    shape, threads = launch.arguments, 32 * launch.options["num_warps"]
    if "BLOCK" in shape and "size" in shape:
        return shape["BLOCK"] * 4 // (16 * threads)
    operand = shape.get("x", shape.get("logits"))
    return 0 if operand is None else max(1, shape["ROWS"] * shape["WIDTH"] * operand.element_size() // (16 * threads))


# The corners of the table, in every run of the suite; the whole table is marked slow.
CORNERS = [("glm_hvp", 80, torch.float32, 8192), ("glm_hvp", 90, torch.bfloat16, 64)]
CORNERS += [(name, 90, torch.float32, 1024) for name in GLM]
CORNERS += [("glm_gradient_curvature", 80, torch.bfloat16, 4096), ("glm_mixed_vjp", 80, torch.bfloat16, 64)]


@pytest.mark.parametrize(("name", "capability", "dtype", "d"), CORNERS)
def test_corners_of_the_table(name, capability, dtype, d, binary, monkeypatch):
    for launch in launches(name, monkeypatch, capability, d=d, dtype=dtype):
        assert_sound(launch, binary(launch, capability), capability)


@pytest.mark.slow
@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", GLM)
def test_whole_table(name, capability, dtype, d, binary, monkeypatch):
    for launch in launches(name, monkeypatch, capability, d=d, dtype=dtype):
        assert_sound(launch, binary(launch, capability), capability)


@pytest.mark.slow
@pytest.mark.parametrize("d", [32, 128, 512, 2048])
@pytest.mark.parametrize("name", GLM)
def test_widths_between_rows_of_the_table(name, d, binary, monkeypatch):
    for launch in launches(name, monkeypatch, 90, d=d):
        assert_sound(launch, binary(launch, 90), 90)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_many_right_hand_sides(capability, dtype, binary, monkeypatch):
    for launch in launches("glm_hvp_multi", monkeypatch, capability, d=256, dtype=dtype, k=32):
        assert_sound(launch, binary(launch, capability), capability)


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [16, 64, 256, 1024, 4096, 131072])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", ["score_moments", "score_moments_backward"])
def test_scores(name, capability, dtype, vocabulary, binary, monkeypatch):
    for launch in launches(name, monkeypatch, capability, n=5000, d=vocabulary, dtype=dtype):
        assert_sound(launch, binary(launch, capability), capability)


@pytest.mark.parametrize("name", ["score_moments", "score_moments_backward"])
def test_scores_of_a_language_model(name, binary, monkeypatch):
    for launch in launches(name, monkeypatch, 90, n=5000, d=131072, dtype=torch.bfloat16):
        assert_sound(launch, binary(launch, 90), 90)


@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
@pytest.mark.parametrize("name", ["multi_dot", "_cg_direction", "_cg_update", "_neumann_step"])
def test_vectors(name, capability, binary, monkeypatch):
    for launch in launches(name, monkeypatch, capability, n=1 << 26):
        assert_sound(launch, binary(launch, capability), capability)


@pytest.mark.parametrize("d", [257, pytest.param(1001, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["glm_hvp", "glm_mixed_vjp"])
def test_padded_rows_of_odd_length_load_128_bits(name, d, binary, monkeypatch):
    for launch in launches(name, monkeypatch, 90, d=d, padded=True):
        assert_sound(launch, binary(launch, 90), 90)


def test_unaligned_rows_compile_without_128_bit_loads(binary, monkeypatch):
    """The counter counts: rows that start anywhere cannot be loaded so."""
    launch = next(one for one in launches("glm_hvp", monkeypatch, 90, d=257) if one.name == "products")
    made = binary(launch, 90, aligned=False)
    assert made.wide_loads == 0
    assert made.stack == 0


def test_beyond_2_31_elements_strides_are_64_bits(binary, monkeypatch):
    for launch in launches("glm_hvp", monkeypatch, 90, n=40_000, d=65_536, batch=(2,)):
        assert_sound(launch, binary(launch, 90), 90)
        if "x_batch" in launch.arguments:
            assert launch.arguments["x_batch"] > 2**31


def test_planted_32_bit_offsets_are_found(tmp_path):
    shape = {"n": 5000, "d": 64, "x_row": 64, "ROWS": 16, "WIDTH": 64}
    tensors = {"x": torch.empty(1, device="meta"), "out": torch.empty(1, device="meta")}
    launch = Launch(planted.row_offsets_of_32_bits, tensors | shape, {"num_warps": 4, "enable_fp_fusion": True})
    assert offline.narrow_offsets(compiled(launch, 90, folder=tmp_path).ttir)


def test_planted_spill_is_found(binary, monkeypatch):
    """A tile that no register file holds."""
    launch = next(one for one in launches("glm_hvp", monkeypatch, 90, d=4096) if one.name == "products")
    crowded = Launch(launch.kernel, launch.arguments | {"ROWS": 16}, launch.options | {"num_warps": 8})
    assert binary(crowded, 90).stack > 0


@pytest.mark.parametrize("capability", [75, 70])
def test_older_devices_are_refused(capability):
    with pytest.raises(KeyError, match=r"8\.0 is the oldest"):
        configurations.look_up("glm_hvp", capability, "float32", 64)


def test_newer_devices_take_the_newest_rows():
    newest = configurations.look_up("glm_hvp", 90, "float32", 64)
    assert configurations.look_up("glm_hvp", 120, "bfloat16", 64) == newest
    assert configurations.look_up("glm_hvp", 89, "float32", 64).programs % MULTIPROCESSORS[80] == 0


def test_wider_tiles_than_the_table_has_are_refused():
    with pytest.raises(KeyError, match="the widest tile has 4096"):
        configurations.look_up("glm_hvp", 90, "float32", 5000)
