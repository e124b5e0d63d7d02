"""Every kernel's addresses, proved in bounds by triton-viz's symbolic sanitizer: for all programs and tiles at once.

It knows where each argument's memory begins and ends, so here, unlike in the interpreter, a load too many is found.
"""

from __future__ import annotations

import importlib

import kernel_cases
import pytest
import torch
from kernel_cases import MAKERS, launcher

kernel_cases.require(interpreter=True)
viz = pytest.importorskip("triton_viz", reason="triton-viz is not installed here; `make kernels` runs these tests")

import offline
import planted
from triton_viz.clients import Sanitizer


@pytest.fixture
def sanitized(monkeypatch):
    """Kernels run under the sanitizer, which ends the process at the first address out of bounds."""
    for family, names in offline.KERNELS.items():
        module = importlib.import_module(f"amu_fast.kernels.{family}")
        for name in names:
            traced = viz.trace(client=Sanitizer(abort_on_error=True))(getattr(module, name))
            monkeypatch.setattr(module, name, traced)
    yield
    viz.clear()


GLM = ("glm_hvp", "glm_hvp_multi", "glm_gradient_curvature", "glm_mixed_vjp")


@pytest.mark.parametrize(("n", "d"), [(1, 1), (9, 17), (300, 33)])
@pytest.mark.parametrize("name", [*GLM, "multi_dot", "score_moments"])
def test_in_bounds(name, n, d, sanitized):
    launcher(name)(*MAKERS[name](n, d, batch=(2,)).arguments)


@pytest.mark.parametrize("name", GLM)
def test_wide_rows_in_bounds(name, sanitized):
    launcher(name)(*MAKERS[name](9, 1040 if name == "glm_hvp_multi" else 4100).arguments)


def test_padded_rows_in_bounds(sanitized):
    """The columns read past d end where the last row's memory ends."""
    x, c, v = MAKERS["glm_hvp"](40, 17).tensors
    padded = torch.zeros(40, 32)[:, :17].copy_(x)
    launcher("glm_hvp")(padded, c, v, 0.1, True)


def test_many_right_hand_sides_in_bounds(sanitized):
    launcher("glm_hvp_multi")(*MAKERS["glm_hvp_multi"](70, 35, k=17).arguments)


def test_gradient_of_scores_in_bounds(sanitized):
    logits, labels = MAKERS["score_moments"](5, 4100).tensors
    _, mean, _, _, normaliser, runner_up = launcher("score_moments")(logits, labels)
    launcher("score_moments_backward")(logits, labels, mean, normaliser, runner_up, *torch.ones(4, 5))


@pytest.mark.parametrize("size", [1, 2049])
def test_vectors_in_bounds(size, sanitized):
    a, b, c, d = torch.randn(4, 3, size)
    scalar, restart, running = torch.ones(3).double(), torch.zeros(3).bool(), torch.ones(3).bool()
    launcher("_cg_direction")(a, b, c, scalar, restart, running)
    launcher("_cg_update")(a, b, scalar, running, c, d)
    launcher("_neumann_step")(a, b, scalar, running, c, d)


@pytest.mark.parametrize("name", ["one_row_too_many", "past_the_end_of_the_answer"])
def test_planted_defects_are_found(name, capsys):
    kernel = viz.trace(client=Sanitizer(abort_on_error=True))(getattr(planted, name))
    with pytest.raises(SystemExit):
        kernel[(3,)](torch.zeros(40, 32), torch.zeros(40), 40, 32, 32, ROWS=16, WIDTH=32)
    assert "ILLEGAL MEMORY ACCESS" in capsys.readouterr().out
