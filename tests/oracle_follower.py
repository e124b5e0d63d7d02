"""Losses, optima and linear systems of the oracle: problem (2) and its Hessian (4) in plain numpy.

Everything is evaluated in `dtype`. The default, `np.longdouble` (2⁻⁶⁴ on x86), makes the result exact to far
more digits than float64 has, so that a comparison judges the library and not this file. Linear systems are
solved with a float64 inverse and refined with residuals in `dtype`; optima are found by Newton's method in
float64 with an exact line search and polished in `dtype` until the residual no longer falls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Whether `np.longdouble` is wider than float64 here (it is not on Windows and on Apple's ARM machines).
WIDE = np.finfo(np.longdouble).eps < 1e-18


@dataclass(frozen=True)
class Follower:
    """Loss, l2 and the width of the Huberised hinge: the whole of problem (2) but its rows."""

    loss: str
    l2: float
    width: float = 0.5

    def value(self, m):
        """ℓ(m)."""
        if self.loss == "logistic":
            return np.logaddexp(0 * m, -m)
        gap = np.maximum(0, 1 - m)
        if self.loss == "squared_hinge":
            return gap**2
        return np.where(m <= 1 - self.width, 1 - m - self.width / 2, gap**2 / (2 * self.width))

    def slope(self, m):
        """ℓ'(m)."""
        if self.loss == "logistic":
            return -np.exp(-np.logaddexp(0 * m, m))
        gap = np.maximum(0, 1 - m)
        if self.loss == "squared_hinge":
            return -2 * gap
        return np.where(m <= 1 - self.width, -1, -gap / self.width).astype(m.dtype)

    def curvature(self, m):
        """ℓ''(m), 0 at the kinks."""
        if self.loss == "logistic":
            return np.exp(-np.logaddexp(0 * m, m) - np.logaddexp(0 * m, -m))
        if self.loss == "squared_hinge":
            return 2 * (m < 1).astype(m.dtype)
        return ((m < 1) & (m > 1 - self.width)).astype(m.dtype) / self.width

    def gradient(self, x, y, w):
        """∇g(w), equation (3)."""
        return x.T @ (y * self.slope(y * (x @ w))) / len(y) + self.l2 * w

    def hessian(self, x, y, w):
        """H(w), equation (4), dense float64."""
        c = self.curvature(y * (x @ w)).astype(np.float64) / len(y)
        wide = x.astype(np.float64)
        return wide.T @ (c[:, None] * wide) + self.l2 * np.eye(x.shape[1])


def payoff_value(kind, m):
    """Payoff per held-out row, before the factor −1/N: hinge(m) or log(1 + e^{−m})."""
    return np.maximum(0, 1 - m) if kind == "hinge" else np.logaddexp(0 * m, -m)


def payoff_slope(kind, m):
    """Derivative of `payoff_value`: −[m < 1], or −σ(−m)."""
    return -(m < 1).astype(m.dtype) if kind == "hinge" else -np.exp(-np.logaddexp(0 * m, m))


def _root(phi):
    """Positive root of a continuous non-decreasing function with φ(0) < 0: bracket, then Illinois steps."""
    low, high = 0.0, 1.0
    f_low, f_high = phi(low), phi(high)
    goal = 1e-3 * abs(f_low)
    if abs(f_high) <= goal:
        return high
    while f_high < 0:
        low, f_low, high = high, f_high, 2 * high
        f_high = phi(high)
    for _ in range(200):
        t = (low * f_high - high * f_low) / (f_high - f_low)
        f = phi(t)
        if abs(f) <= goal or not low < t < high:
            return t
        if f < 0:
            low, f_low, f_high = t, f, f_high / 2
        else:
            high, f_high, f_low = t, f, f_low / 2
    return t


def _newton(follower, x, y):
    """Minimiser of (2) in float64: Newton's direction, then the exact minimum along it."""
    w = np.zeros(x.shape[1])
    scale = np.mean(np.linalg.norm(x, axis=1))
    best, patience = np.inf, 0
    for _ in range(1000):
        gradient = follower.gradient(x, y, w)
        size = np.linalg.norm(gradient)
        patience = 0 if size < best else patience + 1
        best = min(best, size)
        if size <= 1e-14 * scale or (patience >= 5 and best <= 1e-10 * scale):
            return w
        step = -np.linalg.solve(follower.hessian(x, y, w), gradient)
        m, dm = y * (x @ w), y * (x @ step)

        def slope_along(t, m=m, dm=dm, w=w, step=step):
            return np.mean(follower.slope(m + t * dm) * dm) + follower.l2 * (step @ (w + t * step))

        w = w + _root(slope_along) * step
    raise AssertionError(f"the oracle's Newton method stopped at a residual of {best:.1e}: {follower}")


def optimum(follower, x, y, dtype=np.longdouble):
    """w* of problem (2) for rows x (n, p) with their intercept column, polished in `dtype`."""
    w = _newton(follower, x.astype(np.float64), y.astype(np.float64)).astype(dtype)
    x, y = x.astype(dtype), y.astype(dtype)
    best, best_size, patience = w, np.inf, 0
    while patience < 3:
        gradient = follower.gradient(x, y, w)
        size = np.linalg.norm(gradient.astype(np.float64))
        patience = 0 if size < 0.5 * best_size else patience + 1
        if size < best_size:
            best, best_size = w, size
        w = w - np.linalg.solve(follower.hessian(x, y, w), gradient.astype(np.float64))
    return best


def solve(follower, x, y, w, rhs, dtype=np.longdouble):
    """H(w)⁻¹ rhs: float64 inverse, refined with residuals in `dtype` until they no longer fall."""
    inverse = np.linalg.inv(follower.hessian(x, y, w))
    c = follower.curvature(y * (x @ w)) / len(y)
    u = np.zeros(x.shape[1], dtype)
    best, best_size = u, np.inf
    for _ in range(20):
        residual = rhs - (x.T @ (c * (x @ u)) + follower.l2 * u)
        size = np.linalg.norm(residual.astype(np.float64))
        if not size < 0.5 * best_size:
            break
        best, best_size = u, size
        u = u + inverse @ residual
    return best
