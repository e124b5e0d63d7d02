"""P1 by JAXopt: `implicit_diff.custom_root` around damped Newton, under `vmap` and `jit`, float64.

For n >= p the root is the gradient (3) in w, its Jacobian solved by Cholesky. For n < p the root is written in the
dual, where the Jacobian is n x n:   a + b l'(K a) = 0,   K = A A^T,   b = 1/(n l2),   w = A^T a.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amu_fast.bench.auditor_problem import AuditorProblem
from amu_fast.bench.auditor_rows import RowCall
from amu_fast.bench.contender import NotAvailable
from amu_fast.bench.peers.eager import batch_size

RTOL, MAX_STEPS, TRIALS = 1e-8, 50, 6


def load() -> Any:
    """JAX with float64 switched on."""
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax


def on_cpu(device: torch.device) -> None:
    """JAX's usual wheel computes on the CPU; beside a GPU that would compare two machines."""
    if device.type != "cpu":
        raise NotAvailable("skipped", "jax runs on the CPU here")


def batched(problem: AuditorProblem) -> RowCall:
    """All problems, in batches of one size, so that XLA compiles once."""
    on_cpu(problem.device)
    jax = load()
    import jaxopt  # noqa: F401 (its absence is found here, not in the first call)

    problem = problem.first(problem.case.batch_groups)
    case, n = problem.case, problem.train.shape[1]
    rows = partial(_payoff, jax, case.loss == "logistic", case.l2, problem.total, n < case.columns + 1)
    gradient = jax.jit(jax.vmap(jax.grad(rows, argnums=(0, 2))))
    count = len(problem.train)
    chunk = next(c for c in range(min(count, batch_size(problem, torch.float64)), 0, -1) if count % c == 0)
    return RowCall(problem, _Solver(gradient), torch.float64, chunk)


@dataclass(frozen=True)
class _Solver:
    gradient: Any

    def __call__(self, *arrays: Tensor) -> tuple[Tensor, Tensor]:
        train, held = self.gradient(*(array.numpy() for array in arrays))
        return tuple(torch.from_numpy(np.array(part)) for part in (train, held))  # type: ignore[return-value]


def _payoff(jax: Any, logistic: bool, l2: float, total: float, dual: bool, x: Any, y: Any, held: Any, z: Any) -> Any:
    """The payoff of one problem, differentiable in x and held through the root."""
    from jaxopt import implicit_diff, linear_solve

    np_ = jax.numpy
    n = x.shape[0]
    a = y[:, None] * np_.concatenate([x, np_.ones((n, 1))], 1)

    def slope(m: Any) -> Any:
        return -jax.nn.sigmoid(-m) if logistic else -2 * np_.maximum(1 - m, 0)

    def primal(w: Any, a: Any) -> Any:
        return a.T @ slope(a @ w) / n + l2 * w

    def in_dual(s: Any, k: Any) -> Any:
        return s + slope(k @ s) / (n * l2)

    if dual:
        solve = implicit_diff.custom_root(in_dual, solve=linear_solve.solve_lu)(partial(_newton, jax, in_dual, False))
        w = a.T @ solve(np_.zeros(n), a @ a.T)
    else:
        solve = implicit_diff.custom_root(primal, solve=linear_solve.solve_cholesky)(
            partial(_newton, jax, primal, True)
        )
        w = solve(np_.zeros(a.shape[1]), a)
    m = z * (held @ w[:-1] + w[-1])
    return -np_.maximum(1 - m, 0).sum() / total


def _newton(jax: Any, root: Any, symmetric: bool, start: Any, data: Any) -> Any:
    """Newton on root(s, data) = 0; of the steps 1, 1/2, ... the one with the smallest residual is taken."""
    np_ = jax.numpy
    shares = 0.5 ** np_.arange(TRIALS)
    goal = RTOL * np_.linalg.norm(root(start, data))

    def step(state: Any) -> Any:
        s, residual, count = state
        jacobian = jax.jacfwd(root)(s, data)
        if symmetric:
            direction = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(jacobian), residual)
        else:
            direction = np_.linalg.solve(jacobian, residual)
        trials = s - shares[:, None] * direction
        residuals = jax.vmap(root, (0, None))(trials, data)
        best = np_.argmin(np_.linalg.norm(residuals, axis=1))
        return trials[best], residuals[best], count + 1

    def running(state: Any) -> Any:
        return (np_.linalg.norm(state[1]) > goal) & (state[2] < MAX_STEPS)

    return jax.lax.while_loop(running, step, (start, root(start, data), 0))[0]
