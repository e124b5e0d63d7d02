"""P1, the auditor step: who takes part and how much work it is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from amu_fast.bench.auditor_problem import AuditorProblem, newton_steps
from amu_fast.bench.auditor_rows import FitCall, OperatorCall, OurCall, RowCall
from amu_fast.bench.cases import AuditorCase
from amu_fast.bench.contender import Call, Contender, Limit, NotAvailable, Verdict
from amu_fast.bench.roofline import Ceiling, Sizes, gemm, reads

BOTH, FIT = "fit + gradient", "fit alone"
#: Seconds in which a contender must be ready.
PATIENCE = 90.0
#: A problem's operations are counted for these groups; they need as many steps as the others.
COUNTED_GROUPS = 100


def build(case: AuditorCase, device: torch.device) -> AuditorProblem:
    """Scores, groups and folds."""
    return AuditorProblem.of(case, device)


def contenders(case: AuditorCase) -> list[Contender]:
    """Ours first, called as a peer is, then through its API.

    Only ours differentiates through a standardisation, only Newton is written for both losses.
    """
    api = "audit.auditor_step and backward: checks, results, autograd"
    found = [
        Contender("amu_fast", OperatorCall, BOTH, "float64", ours=True, notes="auditor_step and auditor_rows"),
        Contender("amu_fast, public API", OurCall, BOTH, "float64", notes=api),
    ]
    if case.standardize:
        return found
    found += [
        Contender("eager Newton", _peer("eager", "eager"), BOTH, "float64"),
        Contender("eager Newton, float32", _peer("eager", "eager", torch.float32), BOTH, "float32", share=0.5),
        Contender("compiled Newton", _peer("eager", "compiled"), BOTH, "float64"),
        Contender("jaxopt", _peer("jaxopt_root", "batched"), BOTH, "float64", notes="custom_root, vmap, jit"),
    ]
    if case.loss != "squared_hinge":
        return found
    lp = "another problem: mean hinge, no regulariser; per problem"
    return found + [
        Contender("cvxpylayers, released form", _peer("cvxpy_layers", "released"), BOTH, "float64", False, notes=lp),
        Contender("cvxpylayers, rebuilt", _peer("cvxpy_layers", "rebuilt"), BOTH, "float64", False, notes="tolerance "
                  "of SCS left at its default; per problem"),
        Contender("cvxpylayers, built once", _peer("cvxpy_layers", "batched"), BOTH, "float64", notes="batched"),
        Contender("qpth", _peer("qpth_dual", "batched"), BOTH, "float64", notes="dual"),
        Contender("liblinear", _peer("liblinear", "loop"), FIT, "float64", False, notes="a loop, no gradient"),
    ]  # fmt: skip


def check(problem: AuditorProblem, call: Call) -> Verdict:
    """Worst relative error of a problem's gradient; contenders without one say how many problems they solve."""
    if isinstance(call, FitCall):
        return Verdict(float("nan"), float("nan"), "no gradient", units=len(call.problem.train))
    assert isinstance(call, (OurCall, RowCall))
    return call.judge(problem)


def units(problem: AuditorProblem) -> tuple[int, str]:
    """Times are per problem."""
    return len(problem.train), "problem"


def limit(problem: AuditorProblem) -> Limit:
    """Scores in and gradients out once; n p (p + 1) + p^3/3 per factorisation, Newton's steps and the adjoint's.

    For n < p the dual counts: its Gram matrix once, n^2 + n^3/3 per factorisation.
    """
    case, n = problem.case, problem.train.shape[1]
    p = case.columns + 1
    factorisations = newton_steps(problem.first(COUNTED_GROUPS)) + 1
    primal = (n * p * (p + 1) + p**3 / 3) * factorisations
    dual = n * (n + 1) * p + (n * n + n**3 / 3) * factorisations
    scores = problem.scores[0]
    return Limit(2 * scores.numel() * scores.element_size(), len(problem.train) * min(primal, dual), "float64")


def ceilings(problem: AuditorProblem, sizes: Sizes) -> Mapping[str, Ceiling]:
    """Both GEMM rates: the factor may be float32."""
    rates = {f"gemm {dtype}": gemm(dtype, sizes, problem.device) for dtype in ("float64", "float32")}
    return {**reads(sizes, problem.device), **rates}


def _peer(module: str, function: str, *arguments: object) -> Call:
    return partial(load_peer, module, function, arguments)


def load_peer(module: str, function: str, arguments: tuple[object, ...], problem: object) -> Call:
    """Import a peer's file and prepare it; a package that is not there is an outcome."""
    from importlib import import_module

    try:
        return getattr(import_module(f"amu_fast.bench.peers.{module}"), function)(problem, *arguments)
    except ImportError as error:
        raise NotAvailable("not installed", str(error)) from error
