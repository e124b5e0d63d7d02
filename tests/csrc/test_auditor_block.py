"""The auditor step on a block of threads: the CUDA launcher and kernels, emulated, against the PyTorch reference.

The same tables and tolerances as for the CPU's implementation, which runs the same mathematics on another team.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo
from ops import test_auditor_step as cpu
from ops.test_auditor_step import CASES, DTYPES, LAYOUTS, OUTPUTS, ROWS, STEP, assert_close, operands, ragged

from amu_fast.ops import auditor_chunk as columns
from amu_fast.ops import auditor_step as step_module
from amu_fast.status import Status

#: Everything in shared memory; nothing but the block's state there; some arrays here and some there.
DEVICES = {"shared": (4, 232448, True), "global": (1, 3072, False), "mixed": (2, 24576, False)}


@pytest.fixture(params=DEVICES)
def ops(emulator, request):
    emulator.device(*DEVICES[request.param])
    return emulator.ops


@pytest.fixture
def h200(emulator):
    emulator.device(*emulator.H200)
    return emulator.ops


def gradient(ops, args, outputs, cotangents=None):
    return cpu.gradient(args, outputs, ops.auditor_rows, cotangents)


@pytest.mark.parametrize("case", [*CASES[:14:2], *CASES[-6:]], ids=str)
def test_equals_the_reference(ops, case):
    args = operands(case, rtol=1e-14)
    got, wanted = ops.auditor_step(*args), STEP.reference(*args)
    assert torch.equal(got[2], wanted[2])
    for i in (0, 1):
        assert_close(got[i], wanted[i], 1e-10, OUTPUTS[i])
    assert torch.equal(got[4][..., step_module.UNCERTAIN_ROWS], wanted[4][..., step_module.UNCERTAIN_ROWS])
    assert_close(got[3][..., columns.ACCURACY], wanted[3][..., columns.ACCURACY], 0, "accuracy")
    assert_close(gradient(ops, args, got), cpu.gradient(args, wanted, ROWS.reference), 1e-9, "gradient")


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_bounds_equal_the_reference_at_the_same_iterates(h200, case):
    """After a single Newton step the bounds are made of residuals far above rounding, and must agree."""
    args = operands(case)
    args = (*args[:13], 1, *args[14:])
    got, wanted = h200.auditor_step(*args), STEP.reference(*args)
    for k in (columns.PARAM_BOUND, columns.ADJOINT_BOUND, columns.GRADIENT_BOUND, columns.GRADIENT_NORM):
        assert_close(got[3][..., k], wanted[3][..., k], 1e-9, k)
    assert torch.equal(got[4], wanted[4])


@pytest.mark.parametrize("parts", [columns.DIRECT, columns.IMPLICIT, columns.VALUE_ONLY])
@pytest.mark.parametrize("standardize", [False, True])
def test_parts(h200, parts, standardize):
    args = operands(ragged(np.random.default_rng(1), standardize=standardize), parts=parts)
    got, wanted = h200.auditor_step(*args), STEP.reference(*args)
    for i in (0, 1, 5):
        assert_close(got[i], wanted[i], 1e-8, OUTPUTS[i])
    assert torch.equal(got[3].isnan(), wanted[3].isnan())
    assert_close(gradient(h200, args, got), cpu.gradient(args, wanted, ROWS.reference), 1e-8, "gradient")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [None, *LAYOUTS])
def test_every_dtype_and_layout_of_scores(h200, dtype, layout):
    args = operands(ragged(np.random.default_rng(3), standardize=True), dtype)
    moved = args
    if layout:
        moved = tuple(LAYOUTS[layout](a) if isinstance(a, torch.Tensor) and a.ndim else a for a in args)
    exact = (args[0].double(), *args[1:])
    got, wanted = h200.auditor_step(*moved), h200.auditor_step(*exact)
    for i in (0, 1, 2, 4, 5, 6):
        assert torch.equal(got[i].nan_to_num(7), wanted[i].nan_to_num(7)), OUTPUTS[i]
    rows = gradient(h200, moved, got)
    assert rows.dtype == dtype
    assert torch.equal(rows, gradient(h200, exact, wanted).to(dtype))
    wide = (got[3] >= wanted[3])[got[2] == Status.CONVERGED]
    assert bool(wide[..., columns.GRADIENT_BOUND].all())


@pytest.mark.parametrize("cotangents", [torch.ones(()).expand(3, 6), torch.rand(6, 3, dtype=torch.float64).mT])
def test_any_cotangent(h200, cotangents):
    args = operands(ragged(np.random.default_rng(4)))
    out = h200.auditor_step(*args)
    wanted = cpu.gradient(args, out, ROWS.reference, cotangents)
    assert_close(gradient(h200, args, out, cotangents), wanted, 1e-14, "rows")


def test_repeats_are_bitwise_equal_wherever_the_arrays_lie(emulator):
    """Although the emulation runs the threads in another order each time."""
    args = operands(CASES[-1])
    results = []
    for limits in [*DEVICES.values(), emulator.H200]:
        emulator.device(*limits)
        results.append(emulator.ops.auditor_step(*args))
    # Blocks of other sizes add in another order: the first has room for small ones, the last again.
    for a, b in zip(results[0], results[-1], strict=True):
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    for a, b in zip(emulator.ops.auditor_step(*args), results[-1], strict=True):
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))


def test_a_problem_does_not_depend_on_its_peers(h200):
    case = zoo.random_case(np.random.default_rng(6), cells=[20] * 4, d=9)
    alone = replace(case, groups=np.where(case.groups == 2, 0, -1), num_groups=1, normaliser=len(case.labels))
    together, single = h200.auditor_step(*operands(case)), h200.auditor_step(*operands(alone))
    for i in range(5):
        assert torch.equal(together[i][:, 2], single[i][:, 0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("standardize", [False, True])
def test_a_nonfinite_score_loses_its_problem_and_no_other(ops, bad, standardize):
    case = zoo.random_case(np.random.default_rng(7), cells=[10, 10, 30], d=5, folds=2, standardize=standardize)
    scores = case.scores.copy()
    scores[np.flatnonzero(case.groups == 1)[0], 2] = bad
    args = operands(replace(case, scores=scores))
    clean, got = ops.auditor_step(*operands(case)), ops.auditor_step(*args)
    assert got[2].tolist() == [[0, int(Status.NONFINITE), 0]] * 2
    assert got[0][:, 1].isnan().all()
    assert torch.equal(got[0][:, [0, 2]], clean[0][:, [0, 2]])
    assert torch.equal(gradient(ops, args, got).isnan().any(-1), args[2] == 1)
    kept = gradient(ops, args, got, torch.tensor([[1.0, 0.0, 1.0]]).expand(2, 3))
    assert not kept.isnan().any()


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e160])
@pytest.mark.parametrize("standardize", [False, True])
def test_scales(h200, scale, standardize):
    case = zoo.random_case(np.random.default_rng(8), cells=[10, 40], d=6, standardize=standardize)
    args = operands(replace(case, scores=case.scores * scale))
    got, wanted = h200.auditor_step(*args), STEP.reference(*args)
    assert torch.equal(got[2], wanted[2])
    assert_close(got[0], wanted[0], 1e-8, "payoff")


@pytest.mark.parametrize(("n", "d", "groups"), [(0, 3, 2), (4, 0, 2), (1, 1, 2), (3, 2, 0)])
def test_empty(h200, n, d, groups):
    args = (torch.zeros(n, d, dtype=torch.float64), torch.ones(n), torch.full((n,), -1 if groups == 0 else 0),
            torch.ones(2, n, dtype=torch.bool), torch.zeros(2, n, dtype=torch.bool),
            torch.tensor(1.0, dtype=torch.float64), groups, 1, 0.1, 0.5, 0, False, 1e-10, 50, 0)  # fmt: skip
    out = h200.auditor_step(*args)
    assert (out[2] == Status.SKIPPED).all()
    assert not out[0].any()
    assert out[3][..., columns.ACCURACY].isnan().all()
    assert gradient(h200, args, out).shape == (n, d)


def test_group_out_of_range_is_named(h200):
    args = list(operands(zoo.random_case(np.random.default_rng(9), cells=[4], d=2)))
    args[2] = args[2] + 3
    with pytest.raises(RuntimeError, match="groups must be below num_groups = 1, and 8 rows have others"):
        h200.auditor_step(*args)


def test_a_wide_problem(ops):
    """More rows than threads, more columns than a warp, several panels and tiles, in the primal form."""
    args = operands(zoo.random_case(np.random.default_rng(11), cells=[200], d=70, folds=1, standardize=True))
    got, wanted = ops.auditor_step(*args), STEP.reference(*args)
    assert torch.equal(got[2], wanted[2])
    assert_close(got[0], wanted[0], 1e-9, "payoff")
    assert_close(gradient(ops, args, got), cpu.gradient(args, wanted, ROWS.reference), 1e-6, "gradient")
