"""What the tests of the GLM operators share: cases, layouts, extended precision and the tolerance rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from amu_fast.ops import losses

SIZES = (1, 17, 63, 1000)
UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
INTERCEPT = pytest.mark.parametrize("intercept", [True, False], ids=["intercept", "plain"])
KINDS = {"logistic": losses.LOGISTIC, "squared_hinge": losses.SQUARED_HINGE, "huberised_hinge": losses.HUBERISED_HINGE}
LOSSES = pytest.mark.parametrize("loss", KINDS.values(), ids=KINDS)
L2, WIDTH = 0.1, 0.5
#: Roundings of a follower's row beside its p products: equation (9) of docs/game.md counts (p + 8).
ROW_ROUNDINGS = 8

#: Each keeps the values (the expanded one repeats the first entry) and changes how they lie in memory.
LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT if t.ndim > 1 else t,
    "every_second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "rows_of_a_wider_matrix": lambda t: torch.cat([t, torch.full_like(t, math.nan)], -1)[..., : t.shape[-1]],
    "expanded": lambda t: t[:1].expand_as(t),
    "offset": lambda t: torch.cat([torch.full_like(t[:1], math.nan), t])[1:],
}


def implementations(operator):
    return pytest.mark.parametrize("run", [operator.bare, operator.reference], ids=["dispatched", "reference"])


def randoms(*shapes, dtype=torch.float64, seed=0):
    """Normal numbers, drawn in float64 so that every dtype sees the same problem."""
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes)


def follower_problem(n, d, *, batch=(), dtype=torch.float64, intercept=True, scale=1.0, seed=0):
    """x, y, t, w, u with margins of order 1 on both sides of every kink, and no row within rounding of one."""
    x, y, t, w, u = randoms(*[(*batch, n, d), (*batch, n), (*batch, n)], *[(*batch, d + intercept)] * 2, seed=seed)
    x, w = x.to(dtype), (w / max(d, 1) ** 0.5).to(dtype)
    y, t = y.sign().to(dtype), (t.abs() / max(n, 1) * scale).to(dtype)
    m = margins(x, y, w, intercept)
    near = np.minimum(abs(1 - m), abs(1 - WIDTH - m)) < 1e-3
    return x, y, t.masked_fill(torch.from_numpy(near), 0), w, u.to(dtype)


def extended(*tensors):
    """As numpy arrays with 64 bits of mantissa on x86."""
    return tuple(t.detach().numpy().astype(np.longdouble) for t in tensors)


def augmented(x, intercept):
    (x,) = extended(x)
    return np.concatenate([x, np.ones((*x.shape[:-1], 1), dtype=np.longdouble)], -1) if intercept else x


def times(x, v):
    return np.einsum("...ij,...j->...i", x, v)


def transposed_times(x, r):
    return np.einsum("...ij,...i->...j", x, r)


def margins(x, y, w, intercept):
    return extended(y)[0] * times(augmented(x, intercept), extended(w)[0])


def exact_losses(kind, m):
    """l, l', l'', |l'''| in extended precision."""
    if kind == losses.LOGISTIC:
        e = np.exp(-abs(m))
        q = 1 / (1 + e)
        bend = e * q * q
        return np.maximum(-m, 0) + np.log1p(e), np.where(m < 0, -q, -e * q), bend, bend * (1 - e) * q
    slack, zero = np.maximum(1 - m, 0), np.zeros_like(m)
    if kind == losses.SQUARED_HINGE:
        return slack**2, -2 * slack, 2 * (slack > 0) + zero, zero
    inside = (slack > 0) & (slack < WIDTH)
    value = np.where(slack < WIDTH, slack**2 / (2 * np.longdouble(WIDTH)), slack - np.longdouble(WIDTH) / 2)
    return value, -np.minimum(slack / WIDTH, 1), inside / np.longdouble(WIDTH), zero


def assert_within_the_rule(got, reference, exact, terms, p):
    """Error <= 2 max(the same-precision reference's, p u sum|terms|), both against extended precision."""
    assert got.shape == exact.shape
    assert got.dtype == reference.dtype
    error, allowed = abs(got.numpy() - exact), abs(reference.numpy() - exact)
    assert (error <= 2 * np.maximum(allowed, p * UNIT[got.dtype] * terms)).all(), float(error.max())


def assert_bitwise_equal_for_any_number_of_threads(call):
    """`call` returns a tensor or several."""
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results += [call() for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    first = results[0] if isinstance(results[0], tuple) else (results[0],)
    for result in results[1:]:
        result = result if isinstance(result, tuple) else (result,)
        assert all(torch.equal(a, b) for a, b in zip(first, result, strict=True))
