"""One Newton step towards what training without the forget rows would have found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from amu_fast.audit.predict import eval_mode
from amu_fast.errors import DataError, SolveError
from amu_fast.linalg import (
    ConjugateGradient,
    CrossEntropy,
    DampedOperator,
    EmpiricalFisherOperator,
    FlatParameters,
    GaussNewtonOperator,
    HessianOperator,
    LinearOperator,
    Solution,
)
from amu_fast.status import Status
from amu_fast.unlearn.door import class_logits
from amu_fast.unlearn.newton_step import Counting, Layers, apply, layer_choice, mean_gradient
from amu_fast.unlearn.optimise import Sgd
from amu_fast.unlearn.streams import generator
from amu_fast.unlearn.training import Run, Values

if TYPE_CHECKING:
    from amu_fast.rows import Rows
    from amu_fast.splits import Splits
    from amu_fast.unlearn.callbacks import Callback
    from amu_fast.unlearn.result import Result

Curvature = Literal["gauss_newton", "hessian", "fisher"]
Mode = Literal["double_backward", "jvp", "finite_difference"]

# Gradient samples of a product per row: its flops over the 6 p of a gradient (the table of `linalg.modules`).
_COST = {
    "hessian": {"double_backward": 2.0, "jvp": 3.0, "finite_difference": 2.0},
    "gauss_newton": {"double_backward": 4 / 3, "jvp": 2.0, "finite_difference": 5 / 3},
}
_COST["fisher"] = _COST["gauss_newton"]


@dataclass(frozen=True)
class Influence:
    """θ += a (H_r + λI)⁻¹ (1/n) (Σ_f ∇ℓ − (n_f/n_r) Σ_r ∇ℓ), n = n_f + n_r, H_r on retain rows.

    At an optimum of all n rows Σ_f ∇ℓ = −Σ_r ∇ℓ, and a = 1 is Newton's step for the retain loss; with an l2 regulariser
    in training, λ = l2 makes it Newton's step for the regularised one. Everything is evaluated in eval mode; moving
    averages of batch-norm stay as they are.

    Source: Koh and Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017; Guo et al.,
    "Certified Data Removal from Machine Learning Models", ICML 2020. The released WoodFisher variant applies one
    running vector in place of the inverse.

    Args:
        epochs: Budget in retain-set sizes, at most; the solver gets as many steps as it allows.
        scale: a > 0.
        damping: λ >= 0; small networks near their optimum took .05 to .2 (0.5 for "hessian"), less overshoots.
        curvature: "gauss_newton", "hessian" (indefinite in deep networks: needs λ) or "fisher" (empirical).
        layers: Parameters to move: names, shell patterns ("blocks.3.*", "*.bias") or names of modules, or a predicate
            of (name, parameter); None: all that require gradients.
        solver: Of the linear system; its `max_steps` is an upper limit too.
        curvature_rows: Retain rows in H_r, drawn once; None: all.
        mode: How products are made, see `amu_fast.linalg.GaussNewtonOperator`.
        accept_unsolved: Take the step although the solver ran out of steps (or precision); otherwise that raises.
        batch_size: Rows a forward.
        callbacks: Called after the step.

    Raises:
        DataError: An option is out of range.
    """

    epochs: float = 50.0
    scale: float = 1.0
    damping: float = 0.1
    curvature: Curvature = "gauss_newton"
    layers: Layers | None = None
    solver: ConjugateGradient = field(default_factory=lambda: ConjugateGradient(rtol=1e-3))
    curvature_rows: int | None = None
    mode: Mode = "jvp"
    accept_unsolved: bool = False
    batch_size: int = 256
    callbacks: tuple[Callback, ...] = ()
    name: str = "influence"

    augment = None

    def __post_init__(self) -> None:
        if not 0.0 < self.scale < math.inf:
            raise DataError(f"scale must be > 0 and finite, got {self.scale}; 1 is Newton's step")
        if not 0.0 <= self.damping < math.inf:
            raise DataError(f"damping must be >= 0 and finite, got {self.damping}; the l2 of training is usual")
        if self.curvature not in _COST:
            raise DataError(f"curvature must be one of {tuple(_COST)}, got {self.curvature!r}")
        if self.mode not in _COST["hessian"]:
            raise DataError(f"mode must be one of {tuple(_COST['hessian'])}, got {self.mode!r}")
        for option, number in (("batch_size", self.batch_size), ("curvature_rows", self.curvature_rows)):
            if number is not None and number < 1:
                raise DataError(f"{option} must be >= 1, got {number}")

    @property
    def optimiser(self) -> Sgd:
        """No optimiser: the step's scale stands where others have a learning rate."""
        return Sgd(lr=self.scale, momentum=0.0, weight_decay=0.0)

    def unlearn(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Result:
        """A copy of `model` after the step. Records ihvp_steps, ihvp_residual (relative) and update_norm.

        Raises:
            DataError: Unusable model or splits, no parameter chosen, or a budget below one product.
            SolveError: The linear system was not solved.
        """
        run = Run(self, model, splits, seed)
        return run.train(lambda: self._step(run), steps=1)

    def _step(self, run: Run) -> Values:
        retain, forget = run.rows("retain"), run.rows("forget")
        seen = retain
        if self.curvature_rows is not None and self.curvature_rows < len(retain):
            drawn = torch.randperm(len(retain), generator=generator(run.seed, "curvature"))[: self.curvature_rows]
            seen = retain.take(drawn.sort().values)
        chosen = layer_choice(self.layers)
        with eval_mode(run.model), torch.enable_grad():
            parts = [_Batches(rows, self.batch_size, run.device) for rows in (retain, forget)]
            (retain_loss, retain_slope), (forget_loss, forget_slope) = (
                mean_gradient(run.model, _loss, part, chosen) for part in parts
            )
            run.meter.add(len(retain) + len(forget))
            share = len(forget) / (len(forget) + len(retain))
            operator = Counting(self._operator(run.model, _Batches(seen, self.batch_size, run.device), chosen))
            cost = len(seen) * _COST[self.curvature][self.mode]
            solution = self._solve(operator, share * (forget_slope - retain_slope), (run, cost))
        apply(FlatParameters.of(run.model, chosen), solution.value, self.scale)
        size = (share * (forget_slope - retain_slope)).norm()
        return {
            "retain_loss": retain_loss,
            "forget_loss": forget_loss,
            "ihvp_steps": solution.steps,
            "ihvp_residual": solution.residual_norms / size,
            "update_norm": self.scale * solution.value.norm(),
        }

    def _solve(self, operator: Counting, rhs: Tensor, budget: tuple[Run, float]) -> Solution:
        run, cost = budget
        left = int((run.meter.budget - run.meter.used) / cost)
        # besides one a step, one product looks at the true residual every `refresh_every` steps
        steps = left - 1 - left // self.solver.refresh_every
        if steps < 1:
            raise DataError(
                f"epochs {self.epochs} pay for {left} products of {cost:.0f} gradient samples after the gradients; "
                "raise epochs or lower curvature_rows"
            )
        limit = steps if self.solver.max_steps is None else min(steps, self.solver.max_steps)
        solution = replace(self.solver, max_steps=limit).solve(DampedOperator(operator, self.damping), rhs)
        run.meter.used += operator.products * cost
        usable = (Status.CONVERGED, *((Status.MAX_STEPS, Status.STAGNATED) if self.accept_unsolved else ()))
        if int(solution.status) not in usable:
            status = Status(int(solution.status))
            raise SolveError(
                f"the influence system ended as {status.name} after {int(solution.steps)} steps with residual "
                f"{float(solution.residual_norms):.3e} of {float(rhs.norm()):.3e}. {status.advice} Raise epochs or "
                "damping, or set accept_unsolved=True"
            )
        return solution

    def _operator(self, model: nn.Module, batches: _Batches, chosen: Any) -> LinearOperator:
        options: dict[str, Any] = {"parameters": chosen, "mode": self.mode}
        if self.curvature == "hessian":
            return HessianOperator(model, _loss, batches, **options)
        if self.curvature == "fisher":
            return EmpiricalFisherOperator(model, _row_losses, batches, **options)
        return GaussNewtonOperator(model, _logits, CrossEntropy(labels=lambda batch: batch[1]), batches, **options)


@dataclass(frozen=True, eq=False)
class _Batches:
    """A part's rows in order, again and again."""

    rows: Rows
    batch_size: int
    device: torch.device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chunk in torch.arange(len(self.rows)).split(self.batch_size):
            inputs, labels = self.rows.fetch(chunk)
            yield inputs.to(self.device), labels.to(self.device)


def _logits(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    return class_logits(model(batch[0]), len(batch[1]))


def _row_losses(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(_logits(model, batch), batch[1], reduction="none")


def _loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    return _row_losses(model, batch).mean()
