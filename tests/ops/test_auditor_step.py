"""The compiled auditor step against its reference: same verdicts, same numbers, whatever the layout or the threads.

That the reference itself is right is tested against an independent oracle in tests/audit.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from versus_oracle import arguments

from amu_fast.ops import auditor_chunk as columns
from amu_fast.ops import auditor_rows as rows_module
from amu_fast.ops import auditor_step as step_module
from amu_fast.status import Status

STEP, ROWS = step_module.auditor_step, rows_module.auditor_rows
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
OUTPUTS = ("per_problem", "params", "status", "measures", "counts", "coefficients", "directions")


def operands(case, dtype=torch.float64, rtol=1e-10, parts=columns.FULL):
    """The operator's arguments."""
    given = arguments(case)
    follower, train, held, groups = (given[k] for k in ("follower", "train_masks", "held_out_masks", "groups"))
    normaliser = given["normaliser"] or float((groups >= 0).sum())
    return (
        torch.tensor(case.scores, dtype=dtype), torch.tensor(case.labels), groups, train,
        ~train if held is None else held, torch.tensor(float(normaliser), dtype=torch.float64), case.num_groups,
        follower.kind, float(follower.l2), float(follower.width), given["payoff"].kind, case.standardize, rtol, 200,
        parts,
    )  # fmt: skip


def gradient(args, outputs, operator=ROWS.bare, cotangents=None):
    cotangents = torch.ones_like(outputs[0]) if cotangents is None else cotangents
    return operator(cotangents, args[0], args[2], outputs[5], outputs[6])


def ragged(rng, **options):
    """Groups of 1 to 40 rows a side: skipped, dual and primal problems of one batch, with rows in neither part."""
    case = zoo.random_case(rng, cells=[2, 5, 1, 40, 0, 7], d=7, folds=3, ignored=5, **options)
    return zoo.with_bank(rng, case)


def cases():
    rng = np.random.default_rng(0)
    grid = [(cells, d) for cells in ([10, 18], [100]) for d in (1, 4, 11, 16, 17, 64, 101)]
    for i, (cells, d) in enumerate(grid):
        yield zoo.random_case(
            rng, cells=cells, d=d, folds=2, loss=zoo.LOSSES[i % 3], payoff=zoo.PAYOFFS[i % 2],
            standardize=i % 4 < 2, l2=(1e-3, 1e-2, 1e-1)[i % 3], centred=i % 5 == 0,
        )  # fmt: skip
    for loss in zoo.LOSSES:
        for standardize in (False, True):
            yield ragged(rng, loss=loss, standardize=standardize)


CASES = list(cases())


def assert_close(got, wanted, rtol, name):
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    assert torch.equal(got.isnan(), wanted.isnan()), name
    scale = wanted.nan_to_num(0).abs().amax().clamp_min(1e-300)
    assert float((got - wanted).nan_to_num(0).abs().amax()) <= rtol * scale, name


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_equals_the_reference(case, dtype):
    args = operands(case, dtype, rtol=1e-14)
    got, wanted = STEP.bare(*args), STEP.reference(*args)
    assert torch.equal(got[2], wanted[2])
    for i in (0, 1):
        assert_close(got[i], wanted[i], 1e-10, OUTPUTS[i])
    assert torch.equal(got[4][..., step_module.UNCERTAIN_ROWS], wanted[4][..., step_module.UNCERTAIN_ROWS])
    assert_close(got[3][..., columns.ACCURACY], wanted[3][..., columns.ACCURACY], 0, "accuracy")
    scores = (args[0].double(), *args[1:])
    assert_close(gradient(scores, got), gradient(scores, wanted, ROWS.reference), 1e-9, "gradient")


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_bounds_equal_the_reference_at_the_same_iterates(case):
    """After a single Newton step the bounds are made of residuals far above rounding, and must agree."""
    args = operands(case)
    args = (*args[:13], 1, *args[14:])
    got, wanted = STEP.bare(*args), STEP.reference(*args)
    measured = [columns.PARAM_BOUND, columns.ADJOINT_BOUND, columns.GRADIENT_BOUND, columns.GRADIENT_NORM]
    for k in measured:
        assert_close(got[3][..., k], wanted[3][..., k], 1e-9, k)
    assert torch.equal(got[4], wanted[4])


@pytest.mark.parametrize("parts", [columns.DIRECT, columns.IMPLICIT, columns.VALUE_ONLY])
@pytest.mark.parametrize("standardize", [False, True])
def test_parts(parts, standardize):
    args = operands(ragged(np.random.default_rng(1), standardize=standardize), parts=parts)
    got, wanted = STEP.bare(*args), STEP.reference(*args)
    for i in (0, 1, 5):
        assert_close(got[i], wanted[i], 1e-8, OUTPUTS[i])
    assert torch.equal(got[3].isnan(), wanted[3].isnan())
    assert_close(gradient(args, got), gradient(args, wanted, ROWS.reference), 1e-8, "gradient")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_of_scores(dtype):
    args = operands(ragged(np.random.default_rng(2)), dtype)
    exact = (args[0].double(), *args[1:])
    got, wanted = STEP.bare(*args), STEP.bare(*exact)
    assert torch.equal(got[0], wanted[0])
    rows = gradient(args, got)
    assert rows.dtype == dtype
    assert torch.equal(rows, gradient(exact, wanted).to(dtype))
    wide = (got[3] >= wanted[3])[got[2] == Status.CONVERGED]
    assert bool(wide[..., columns.GRADIENT_BOUND].all())


LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT if t.ndim > 1 else t,
    "every_second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "rows_of_a_wider_matrix": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    "offset": lambda t: torch.cat([t[:1], t])[1:],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_layout(layout, dtype):
    args = operands(ragged(np.random.default_rng(3), standardize=True), dtype)
    moved = tuple(LAYOUTS[layout](a) if isinstance(a, torch.Tensor) and a.ndim else a for a in args)
    plain, got = STEP.bare(*args), STEP.bare(*moved)
    for a, b in zip(plain, got, strict=True):
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    assert torch.equal(gradient(args, plain), gradient(moved, got))


@pytest.mark.parametrize("cotangents", [torch.ones(()).expand(3, 6), torch.rand(6, 3, dtype=torch.float64).mT])
def test_any_cotangent(cotangents):
    args = operands(ragged(np.random.default_rng(4)))
    out = STEP.bare(*args)
    wanted = gradient(args, out, ROWS.reference, cotangents)
    assert_close(gradient(args, out, cotangents=cotangents), wanted, 1e-14, "rows")


@pytest.mark.parametrize("case", CASES[-3:], ids=str)
def test_bitwise_equal_for_any_number_of_threads(case):
    # Many groups, so that the work is worth more than one thread.
    case = zoo.random_case(np.random.default_rng(5), cells=[40] * 30, d=20, loss=case.loss, standardize=True)
    args = operands(case)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = STEP.bare(*args)
            results += [(*out, gradient(args, out))]
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_problem_does_not_depend_on_its_peers():
    rng = np.random.default_rng(6)
    case = zoo.random_case(rng, cells=[20] * 4, d=9)
    alone = replace(case, groups=np.where(case.groups == 2, 0, -1), num_groups=1, normaliser=len(case.labels))
    together, single = STEP.bare(*operands(case)), STEP.bare(*operands(alone))
    for i in range(5):
        assert torch.equal(together[i][:, 2], single[i][:, 0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("standardize", [False, True])
def test_a_nonfinite_score_loses_its_problem_and_no_other(bad, standardize):
    case = zoo.random_case(np.random.default_rng(7), cells=[10, 10, 30], d=5, folds=2, standardize=standardize)
    scores = case.scores.copy()
    scores[np.flatnonzero(case.groups == 1)[0], 2] = bad
    args = operands(replace(case, scores=scores))
    clean = STEP.bare(*operands(case))
    got, wanted = STEP.bare(*args), STEP.reference(*args)
    assert got[2].tolist() == wanted[2].tolist() == [[0, int(Status.NONFINITE), 0]] * 2
    assert got[0][:, 1].isnan().all()
    assert torch.equal(got[0][:, [0, 2]], clean[0][:, [0, 2]])
    rows = gradient(args, got)
    assert torch.equal(rows.isnan().any(-1), args[2] == 1)
    # A cotangent of 0 leaves the problem out.
    kept = gradient(args, got, cotangents=torch.tensor([[1.0, 0.0, 1.0]]).expand(2, 3))
    assert not kept.isnan().any()


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e160])
@pytest.mark.parametrize("standardize", [False, True])
def test_scales(scale, standardize):
    case = zoo.random_case(np.random.default_rng(8), cells=[10, 40], d=6, standardize=standardize)
    args = operands(replace(case, scores=case.scores * scale))
    got, wanted = STEP.bare(*args), STEP.reference(*args)
    assert torch.equal(got[2], wanted[2])
    assert_close(got[0], wanted[0], 1e-8, "payoff")


@pytest.mark.parametrize(("n", "d"), [(0, 3), (4, 0), (1, 1)])
def test_empty(n, d):
    args = (torch.zeros(n, d, dtype=torch.float64), torch.ones(n), torch.zeros(n, dtype=torch.int64),
            torch.ones(2, n, dtype=torch.bool), torch.zeros(2, n, dtype=torch.bool),
            torch.tensor(1.0, dtype=torch.float64), 2, 1, 0.1, 0.5, 0, False, 1e-10, 50, 0)  # fmt: skip
    out = STEP.bare(*args)
    assert (out[2] == Status.SKIPPED).all()
    assert gradient(args, out).shape == (n, d)


def test_group_out_of_range_is_named():
    args = list(operands(zoo.random_case(np.random.default_rng(9), cells=[4], d=2)))
    args[2] = args[2] + 3
    with pytest.raises(RuntimeError, match="groups must be below num_groups = 1, got 3"):
        STEP.bare(*args)


def test_opcheck():
    args = operands(zoo.random_case(np.random.default_rng(10), cells=[6, 9], d=3, folds=2))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(STEP.bare, (args[0].requires_grad_(), *args[1:]), test_utils=checks)
    out = STEP.bare(*operands(zoo.random_case(np.random.default_rng(10), cells=[6, 9], d=3, folds=2)))
    rows = (torch.ones(2, 2, dtype=torch.float64), args[0].detach(), args[2], out[5].detach(), out[6].detach())
    torch.library.opcheck(ROWS.bare, rows, test_utils=checks[:3])


PROGRAM = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from ops.test_auditor_step import CASES, STEP, gradient, operands
outputs = []
for case in CASES[::2]:
    args = operands(case)
    out = STEP.bare(*args)
    outputs.append((*out, gradient(args, out)))
torch.save(outputs, sys.argv[2])
"""


@pytest.mark.parametrize("isa", ["avx2", "baseline"])
def test_every_instruction_set(isa, tmp_path):
    """Other vectors, other order of sums: equal to rounding."""
    path = tmp_path / "outputs.pt"
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent.parent), str(path)]
    run = subprocess.run(command, env={**os.environ, "AMU_FAST_ISA": isa}, capture_output=True, text=True)
    if "one that this processor" in run.stderr:
        pytest.skip(f"{isa} is not available here")
    assert run.returncode == 0, run.stderr
    for case, got in zip(CASES[::2], torch.load(path), strict=True):
        args = operands(case)
        wanted = STEP.bare(*args)
        assert torch.equal(got[2], wanted[2])
        assert_close(got[0], wanted[0], 1e-9, "payoff")
        assert_close(got[7], gradient(args, wanted), 1e-6, "gradient")


def test_unknown_instruction_set_is_named(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent.parent), str(tmp_path / "outputs.pt")]
    run = subprocess.run(command, env={**os.environ, "AMU_FAST_ISA": "mmx"}, capture_output=True, text=True)
    assert "AMU_FAST_ISA must be auto, avx512, avx2 or baseline" in run.stderr
