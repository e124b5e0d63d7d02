"""P1's fit alone, by scikit-learn's wrappers of liblinear, one problem after another on the CPU."""

from __future__ import annotations

from torch import Tensor

from amu_fast.bench.auditor_problem import AuditorProblem
from amu_fast.bench.auditor_rows import FitCall
from amu_fast.bench.peers.jaxopt_root import on_cpu

TOL, MAX_ITER = 1e-6, 10_000


def loop(problem: AuditorProblem) -> FitCall:
    """C = 1/(n l2); `dual="auto"` picks the form by shape, as its authors advise."""
    from sklearn.svm import LinearSVC

    on_cpu(problem.device)
    n = problem.train.shape[1]
    model = LinearSVC(C=1 / (n * problem.case.l2), intercept_scaling=1, dual="auto", tol=TOL, max_iter=MAX_ITER)

    def fit(rows: Tensor, y: Tensor) -> object:
        return model.fit(rows.numpy(), y.numpy())

    part = problem if len(problem.train) <= 300 else problem.first(problem.case.peer_groups * 10)
    return FitCall(part, fit)
