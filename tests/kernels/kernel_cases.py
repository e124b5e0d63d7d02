"""Problems for every operator of `amu_fast.kernels`, and the tolerance rule that judges an implementation of it."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from dataclasses import dataclass

import formulas
import pytest
import torch

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float64: 2.0**-53}
LOSSES = (formulas.LOGISTIC, formulas.SQUARED_HINGE, formulas.HUBERISED_HINGE)
WIDTH, L2 = 0.5, 0.1
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def require(*, interpreter):
    """Skip a module where Triton is absent or in the other of its two modes, which a process has for life."""
    pytest.importorskip("triton", reason="triton is not installed here; `make kernels` runs the tests of the kernels")
    if interpreter != INTERPRETED:
        value = "1" if interpreter else "unset"
        pytest.skip(f"needs TRITON_INTERPRET {value}; `make kernels` sees to it", allow_module_level=True)


def launcher(name):
    module = {
        "multi_dot": "vectors",
        "_cg_direction": "vectors",
        "_cg_update": "vectors",
        "_neumann_step": "vectors",
        "glm_gradient_curvature": "glm_curvature",
        "glm_mixed_vjp": "glm_mixed",
        "score_moments_backward": "score_moments",
    }.get(name, name)
    return getattr(importlib.import_module(f"amu_fast.kernels.{module}"), name.lstrip("_"))


def dispatched(name):
    return getattr(torch.ops.amu_fast, name)


@dataclass(frozen=True)
class Problem:
    """Float32 arguments whose tensors have shapes that one function makes, and the scalars behind them."""

    tensors: tuple[torch.Tensor, ...]
    scalars: tuple[object, ...]

    @property
    def arguments(self):
        return self.tensors + self.scalars

    def map(self, function):
        return Problem(tuple(function(t) for t in self.tensors), self.scalars)


def _normal(generator, *shape):
    return torch.randn(*shape, generator=generator)


def glm_hvp(n, d, *, batch=(), intercept=True, seed=0, **_):
    g = torch.Generator().manual_seed(seed)
    c = torch.rand(*batch, n, generator=g) / max(n, 1)
    return Problem((_normal(g, *batch, n, d), c, _normal(g, *batch, d + intercept)), (L2, intercept))


def glm_hvp_multi(n, d, *, batch=(), intercept=True, seed=0, k=3, shared=False, **_):
    g = torch.Generator().manual_seed(seed)
    c = torch.rand(*batch, n, 1 if shared else k, generator=g) / max(n, 1)
    return Problem((_normal(g, *batch, n, d), c, _normal(g, *batch, d + intercept, k)), (L2, intercept))


def _rows(g, n, d, batch, intercept):
    """x, y, t, w with margins of order 1, none within rounding of a hinge's kink."""
    x, w = _normal(g, *batch, n, d), _normal(g, *batch, d + intercept) / (d + 1) ** 0.5
    y = torch.where(_normal(g, *batch, n) > 0, 1.0, -1.0)
    t = torch.rand(*batch, n, generator=g) / max(n, 1)
    m = y * formulas.times(formulas.with_ones(x, intercept), w)
    near = ((m - 1).abs() < 1e-3) | ((m - 1 + WIDTH).abs() < 1e-3)
    return x, y, t * ~near, w


def glm_gradient_curvature(n, d, *, batch=(), intercept=True, seed=0, loss=0, **_):
    g = torch.Generator().manual_seed(seed)
    return Problem(_rows(g, n, d, batch, intercept), (loss, L2, WIDTH, intercept))


def glm_mixed_vjp(n, d, *, batch=(), intercept=True, seed=0, loss=0, **_):
    g = torch.Generator().manual_seed(seed)
    rows = _rows(g, n, d, batch, intercept)
    return Problem((*rows, _normal(g, *batch, d + intercept)), (loss, WIDTH, intercept))


def multi_dot(n, d, *, batch=(), seed=0, **_):
    g = torch.Generator().manual_seed(seed)
    return Problem((_normal(g, *batch, n * d), _normal(g, *batch, n * d)), ())


def score_moments(n, d, *, batch=(), seed=0, **_):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, max(d, 1), (*batch, n), generator=g)
    return Problem((4 * _normal(g, *batch, n, d), labels), ())


GLM = {f.__name__: f for f in (glm_hvp, glm_hvp_multi, glm_gradient_curvature, glm_mixed_vjp)}
MAKERS = {**GLM, "multi_dot": multi_dot, "score_moments": score_moments}


def as_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def assert_accurate(name, outputs, problem):
    """Error <= 2 max(the same-precision formula's error, p u sum|terms|), both against float64.

    p is the number of terms of a row's product; a mean over a vocabulary's tiles has at most four roundings per term.
    """
    formula, sizes = getattr(formulas, name), getattr(formulas, f"{name}_sizes")
    exact = formula(*problem.map(_double).arguments)
    same = formula(*problem.map(_single).arguments)
    size = sizes(*problem.map(_double).arguments)
    terms = 4 if name == "score_moments" else problem.tensors[0].shape[-1] + 1
    for output, truth, reference, magnitude in zip(as_tuple(outputs), exact, same, size, strict=True):
        unit = UNIT[torch.float64] if output.dtype == torch.float64 else UNIT[torch.float32]
        allowed = 2 * torch.maximum((reference.double() - truth).abs(), terms * unit * magnitude)
        if output.dtype == torch.bfloat16:
            # The interpreter truncates to bfloat16 where a device rounds.
            allowed = allowed + (2 if INTERPRETED else 1) * UNIT[torch.bfloat16] * truth.abs()
        assert output.shape == truth.shape
        assert output.is_contiguous()
        got = output.cpu().double()
        error = torch.where((got == truth) | (got.isnan() & truth.isnan()), 0, (got - truth).abs())
        assert ((error == 0) | (error <= allowed)).all(), f"{name}: errors {error} where {allowed} are allowed"


def _double(t):
    return t.double() if t.is_floating_point() else t


def _single(t):
    return t.float() if t.is_floating_point() else t


INF, NAN = torch.inf, torch.nan
# A row of logits, its label, and what score_moments makes of them.
SCORE_EDGES = [
    ([0.0, 0.0], 0, (math.log(2), -math.log(2), 0.0, 0.0, math.log(2), 1)),
    ([5.0], 0, (0.0, 0.0, 0.0, INF, 5.0, -1)),
    ([1.0, -INF, -INF], 0, (0.0, 0.0, 0.0, INF, 1.0, -1)),
    ([1.0, -INF, 1.0], 1, (INF, -math.log(2), 0.0, -INF, 1 + math.log(2), 0)),
    ([3.0, 3.0, 3.0], 2, (math.log(3), -math.log(3), 0.0, 0.0, 3 + math.log(3), 0)),
    ([NAN, 1.0], -100, (0.0, 0.0, 0.0, 0.0, 0.0, 0)),
    ([1.0, 2.0], 2, (NAN, -0.5822031, 0.1966119, NAN, 2.3132617, 1)),
    ([NAN, 1.0], 1, (NAN, NAN, NAN, NAN, NAN, -1)),
    ([INF, 1.0], 1, (NAN, NAN, NAN, -INF, NAN, 0)),
    ([-INF, -INF], 1, (NAN, NAN, NAN, NAN, NAN, -1)),
    ([1e38, -1e38], 0, (0.0, 0.0, 0.0, 2e38, 1e38, 1)),
    ([1e-38, 0.0], 0, (math.log(2), -math.log(2), 0.0, 1e-38, math.log(2), 1)),
]

GUARD = 64


def guarded(shape, dtype, device=None):
    """A tensor in the middle of its own memory, all of it NaN or the lowest integer, and that memory."""
    size = torch.Size(shape).numel()
    poison = torch.nan if dtype.is_floating_point else torch.iinfo(dtype).min
    store = torch.full((size + 2 * GUARD,), poison, dtype=dtype, device=device)
    return store[GUARD : GUARD + size].view(shape), store


@contextlib.contextmanager
def guard_bands(monkeypatch):
    """Put every tensor that a launcher makes between guard bands, poisoned; on leaving, the bands must be intact."""
    stores = []

    def empty(*shape, dtype=torch.float32, device=None):
        shape = shape if all(isinstance(size, int) for size in shape) else shape[0]
        tensor, store = guarded(shape, dtype, device)
        stores.append(store)
        return tensor

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        yield stores
    assert_intact(stores)


def assert_intact(stores):
    for store in stores:
        for band in (store[:GUARD], store[-GUARD:]):
            untouched = band.isnan() if band.is_floating_point() else band == torch.iinfo(band.dtype).min
            assert untouched.all()
